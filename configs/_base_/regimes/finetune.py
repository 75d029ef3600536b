"""End to end, with layer-wise learning-rate decay (InternVL's published recipe, arXiv 2312.14238)."""

frozen = False
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.95),
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
)
