"""ViT-e/14 (arXiv 2209.06794): random weights, or those of --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(type='PlainViT', arch='vit_e', img_size=224, patch_size=14, with_cp=True, init_cfg=init_cfg)
patch_size = 14
embed_dims = 1792
levels = (13, 27, 41, 55)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
