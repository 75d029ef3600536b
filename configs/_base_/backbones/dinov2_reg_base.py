"""DINOv2 with registers ViT-b/14 (arXiv 2309.16588) through transformers: the hub's, or --weights FOLDER."""

backbone = dict(type='HFBackbone', model='{{$VIT22B_WEIGHTS:facebook/dinov2-with-registers-base}}')
patch_size = 14
embed_dims = 768
levels = (2, 5, 8, 11)
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
