"""A toy street: a small street made from a seed, cast by rays, with exact labels and depths.

`make_street` gives the geometry, which rays can be cast at; `render` a camera's picture of it; `write_ade` a
data set in ADE20K's layout, `write_waymo` one in Waymo's, with LiDAR.
"""

from .ade import ADE_VALUE, ade_frame, write_ade
from .camera import Camera, Frame, render, sample_view
from .light import Light, sample_light
from .parts import Label, Material, Part
from .scene import Hits, Layout, Street, make_street
from .waymo import write_waymo

__all__ = [
    'ADE_VALUE',
    'Camera',
    'Frame',
    'Hits',
    'Label',
    'Layout',
    'Light',
    'Material',
    'Part',
    'Street',
    'ade_frame',
    'make_street',
    'render',
    'sample_light',
    'sample_view',
    'write_ade',
    'write_waymo',
]
