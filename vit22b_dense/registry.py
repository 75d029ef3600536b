"""The scope `vit22b_dense` of mmengine's registries: what goes by the name of something in mmseg, but is ours.

mmseg's inferencer looks for a step of the type ``LoadImageFromFile`` in a pipeline. With ``_scope_='vit22b_dense'`` a
config has ours by that name; other configs keep mmcv's.
"""

from mmengine.registry import Registry
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

TRANSFORMS = Registry(
    'transform', parent=MMSEG_TRANSFORMS, scope='vit22b_dense', locations=['vit22b_dense.datasets.loading']
)
