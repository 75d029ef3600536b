"""ViT-G/14 (arXiv 2106.04560): random weights, or those of --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(type='PlainViT', arch='vit_g', img_size=224, patch_size=14, with_cp=True, init_cfg=init_cfg)
patch_size = 14
embed_dims = 1664
levels = (11, 23, 35, 47)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
