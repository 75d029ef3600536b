"""Pretraining from random weights: ViT-22B's weight decay (arXiv 2302.05442), 3.0 on the head and 0.03 on the rest."""

frozen = False
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=1.0, head_weight_decay=3.0),
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.03),
    clip_grad=dict(max_norm=1.0),
)
