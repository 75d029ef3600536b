"""ViT22B 'large', random weights unless --cfg-options model.backbone.init_cfg.checkpoint=... names some."""

backbone = dict(type='ViT22B', arch='large', img_size=224, patch_size=14)
patch_size = 14
embed_dims = 1024
levels = (5, 11, 17, 23)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
