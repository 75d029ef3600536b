"""ViT22B in its real size, 22 billion parameters. No weights are public; name yours with --weights FILE."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(
    type='ViT22B', arch='22b', img_size=224, patch_size=14, with_cp=True, drop_path_rate=0.4, init_cfg=init_cfg
)
patch_size = 14
embed_dims = 6144
levels = (11, 23, 35, 47)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
