"""Weights on disk: reading and loading them safely, writing them whole, converting between formats and layouts."""

from .convert import SAME, check_apart, convert_checkpoint, other_layout
from .errors import CheckpointError
from .fitting import check_finite, check_fit, load_into_meta, load_weights
from .inplace import InPlaceReader
from .layouts import LAYOUTS
from .reading import LazyWeights, open_weights, read_checkpoint, state_dict_of
from .reference import Reference
from .writing import write_weights

__all__ = [
    'LAYOUTS', 'SAME', 'CheckpointError', 'InPlaceReader', 'LazyWeights', 'Reference', 'check_apart', 'check_finite',
    'check_fit', 'convert_checkpoint', 'load_into_meta', 'load_weights', 'open_weights', 'other_layout',
    'read_checkpoint', 'state_dict_of', 'write_weights',
]  # fmt: skip
