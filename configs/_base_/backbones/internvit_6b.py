"""InternViT-6B-224px (arXiv 2312.14238): --weights FILE, as tools/convert_checkpoint.py writes it."""

weights = '{{$VIT22B_WEIGHTS:random}}'
init_cfg = None if weights == 'random' else dict(type='Pretrained', checkpoint=weights)
backbone = dict(
    type='PlainViT',
    arch='internvit_6b',
    img_size=224,
    patch_size=14,
    with_cp=True,
    drop_path_rate=0.4,
    init_cfg=init_cfg,
)
patch_size = 14
embed_dims = 3200
levels = (11, 23, 35, 47)
pixel_mean = [123.675, 116.28, 103.53]
pixel_std = [58.395, 57.12, 57.375]
