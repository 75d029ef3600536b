"""ViT22B 'small': random weights, or those of --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(type='ViT22B', arch='small', img_size=224, patch_size=14, init_cfg=init_cfg)
patch_size = 14
embed_dims = 384
levels = (2, 5, 8, 11)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
