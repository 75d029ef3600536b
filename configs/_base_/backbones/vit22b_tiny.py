"""ViT22B 'tiny', random weights unless --cfg-options model.backbone.init_cfg.checkpoint=... names some."""

backbone = dict(type='ViT22B', arch='tiny', img_size=224, patch_size=14)
patch_size = 14
embed_dims = 192
levels = (2, 5, 8, 11)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
