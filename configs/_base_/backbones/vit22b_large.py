"""ViT22B 'large': random weights, or those of --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(type='ViT22B', arch='large', img_size=224, patch_size=14, init_cfg=init_cfg)
patch_size = 14
embed_dims = 1024
levels = (5, 11, 17, 23)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
