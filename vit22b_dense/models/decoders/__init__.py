"""From feature maps to classes or depth."""
