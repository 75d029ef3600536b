"""DINOv3 ViT-7B/16 (arXiv 2508.10104) through transformers: the hub's, or --weights FOLDER."""

backbone = dict(type='HFBackbone', model='{{$VIT22B_WEIGHTS:facebook/dinov3-vit7b16-pretrain-lvd1689m}}', with_cp=True)
patch_size = 16
embed_dims = 4096
levels = (9, 19, 29, 39)
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
