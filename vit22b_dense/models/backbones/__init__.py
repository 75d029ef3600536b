"""Plain Vision Transformers that return feature maps."""
