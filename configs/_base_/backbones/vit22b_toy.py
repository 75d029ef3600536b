"""ViT22B 'tiny' with five blocks, as the demo trains it from scratch: random weights, or --weights FILE's."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(
    type='ViT22B',
    arch=dict(embed_dims=192, num_layers=5, num_heads=3, mlp_dims=768),
    img_size=224,
    patch_size=14,
    init_cfg=init_cfg,
)
patch_size = 14
embed_dims = 192
levels = (1, 2, 3, 4)
pixel_mean = [127.5, 127.5, 127.5]
pixel_std = [127.5, 127.5, 127.5]
