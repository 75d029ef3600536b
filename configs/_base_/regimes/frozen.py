"""Frozen: the backbone gives features, only the decoder learns, at the rate that configs/_base_/heads/ names."""

frozen = True
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=1.0),
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0),
)
