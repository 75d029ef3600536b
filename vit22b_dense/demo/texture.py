"""The colours of the toy street's surfaces: fixed functions of where a ray hits.

Patterns fade to their mean where one pixel covers a period of them, so that nothing flickers far away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .parts import Colour, Material
from .raycast import noise
from .scene import Hits, Street


@dataclass
class _Patch:
    """The hit points of one material: n points, fields as in `Hits` and `Street`, indexed by point."""

    street: Street
    points: np.ndarray
    local: np.ndarray
    normal: np.ndarray
    half: np.ndarray
    colour: np.ndarray
    style: np.ndarray
    instance: np.ndarray
    footprint: np.ndarray

    def noise(self, cell: float) -> np.ndarray:
        """Noise about 0 (-0.5 .. 0.5), faded where it is too fine to see, (n, 1)."""
        return ((noise(self.points, cell) - 0.5) * self.fade(2 * cell))[:, None]

    def fade(self, period: float | np.ndarray) -> np.ndarray:
        """How much of a pattern of this period (metres) can be seen, (n,) in 0 .. 1."""
        return np.clip(1.6 - 1.6 * self.footprint / period, 0.0, 1.0)


def surface_colour(street: Street, hits: Hits, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour and gloss of what was hit.

    Args:
        street: what was cast at.
        hits: N hits.
        footprint: (N,) width in metres that a pixel covers at the hit.

    Returns:
        colour (N, 3) float64, sRGB 0 .. 1, and gloss (N,) float64, the share of mirrored light, 0 .. 1; both
        0 where nothing was hit.
    """
    colour, gloss = np.zeros((len(footprint), 3)), np.zeros(len(footprint))
    # Half lengths of the solids along their own axes, to turn local coordinates into metres.
    half = np.linalg.norm(street.solids.axes, axis=1)
    for material, paint in _PAINT.items():
        at = np.flatnonzero(hits.material == material)
        if len(at):
            p = hits.primitive[at]
            patch = _Patch(
                street, hits.points[at], hits.local[at], hits.normal[at], half[p], street.colour[p].copy(),
                street.style[p], hits.instance[at], footprint[at],
            )  # fmt: skip
            colour[at], gloss[at] = paint(patch)
    return np.clip(colour, 0.01, 0.98, out=colour), gloss


def _random(*cells: np.ndarray) -> np.ndarray:
    """A random number 0 .. 1 for each tuple of integers."""
    mixed = np.uint64(0)
    for cell in cells:
        mixed = (mixed ^ cell.astype(np.int64).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed & np.uint64(0xFFFF)).astype(np.float64) / 0xFFFF


def _mix(colour: np.ndarray, other: np.ndarray | Colour, weight: np.ndarray) -> np.ndarray:
    """Colour (n, 3) moved towards other by weight (n,)."""
    return colour + (np.asarray(other) - colour) * np.asarray(weight, np.float64)[:, None]


def _plain(p: _Patch) -> tuple[np.ndarray, float]:
    return p.colour * (1 + 0.10 * p.noise(0.3)), 0.0


def _grass(p: _Patch) -> tuple[np.ndarray, float]:
    colour = p.colour * (1 + 0.5 * p.noise(0.06) + 0.35 * p.noise(0.7))
    return _mix(colour, (0.45, 0.38, 0.26), 0.5 * np.clip(noise(p.points, 1.3) * 3 - 1.9, 0, 1)), 0.0


def _asphalt(p: _Patch) -> tuple[np.ndarray, float]:
    x, y = p.points[:, 0], p.points[:, 1]
    colour = p.colour * (1 + 0.34 * p.noise(0.025) + 0.10 * p.noise(0.12) + 0.14 * p.noise(1.6))
    # A patch mended with darker asphalt here and there.
    colour *= 1 - 0.16 * (_random(np.floor(x / 4.5), np.floor(y / 1.7)) > 0.93)[:, None]
    layout = p.street.layout
    if layout is None:
        return colour, 0.0
    right, left = layout.road
    inside = (y > right) & (y < left)
    gutter = np.clip(1 - np.minimum(y - right, left - y) / 0.35, 0, 1) * inside
    colour *= 1 - 0.25 * gutter[:, None]
    white = (np.abs(y - layout.divider) < 0.07) & ((x % 6.0) < 3.0)
    for line in layout.parking:
        white |= (np.abs(y - line) < 0.05) & ((x % 1.0) < 0.6)
    for zebra in layout.zebras:
        near = np.abs(x - zebra)
        white &= near > 2.4
        white |= (near < 1.6) & (y % 1.0 < 0.5) & (y > right + 0.3) & (y < left - 0.3)
    worn = 0.85 - 0.5 * np.clip(noise(p.points, 0.09) * 4 - 2.6, 0, 1)
    return _mix(colour, (0.82, 0.82, 0.78), white * inside * worn), 0.0


def _paving(p: _Patch) -> tuple[np.ndarray, float]:
    x, y = p.points[:, 0], p.points[:, 1]
    slab = p.style[:, 0]
    row = np.floor(y / slab)
    u, v = x / slab + 0.5 * (row % 2), y / slab
    joint = np.minimum(u % 1.0, v % 1.0) * slab < 0.03
    tone = ((_random(np.floor(u), row) - 0.5) * p.fade(slab))[:, None]
    colour = p.colour * (1 + 0.16 * tone + 0.12 * p.noise(0.04) + 0.14 * p.noise(1.1))
    colour *= 1 - 0.30 * (joint * p.fade(0.35))[:, None]
    kerb = p.normal[:, 2] < 0.5
    if p.street.layout is not None:
        right, left = p.street.layout.road
        kerb |= np.minimum(np.abs(y - right), np.abs(y - left)) < 0.16
    stone = np.where((x % 1.0 < 0.03)[:, None], 0.45, 0.64) * np.ones(3)
    return np.where(kerb[:, None], stone * (1 + 0.15 * p.noise(0.05)), colour), 0.0


def _facade(p: _Patch) -> tuple[np.ndarray, np.ndarray]:
    storey, spacing, share, ground = p.style.T
    # Fronts and backs are the faces across the solid's own y.
    along_x = np.abs(p.local[:, 1]) > np.abs(p.local[:, 0])
    across = np.where(along_x, 0, 1)
    rows = np.arange(len(across))
    half = p.half[rows, across]
    u = p.local[rows, across] * half + half
    z = p.local[:, 2] * p.half[:, 2] + p.half[:, 2] - 0.2
    columns = np.maximum(np.floor(2 * half / spacing), 1)
    spacing = 2 * half / columns
    column, level = np.floor(u / spacing), np.floor(z / storey)
    du = np.abs(u / spacing - column - 0.5) * spacing
    dz = z - level * storey
    shop = (level <= 0) & (ground > 0.5) & along_x
    wide = np.where(shop, 0.44, share / 2) * spacing
    sill, top = np.where(shop, 0.45, 0.30 * storey), np.where(shop, 2.5, 0.80 * storey)
    out = np.maximum(du - wide, np.maximum(sill - dz, dz - top))
    # The side walls have few windows, and nothing is above the last full storey.
    kept = (along_x | (_random(column, p.instance) > 0.55)) & ((level + 1) * storey <= 2 * p.half[:, 2])
    door = (level <= 0) & ~shop & along_x & (_random(column, p.instance, level) < 0.25)
    seen = p.fade(spacing * 0.7)
    brick = p.colour[:, 0] > 1.45 * p.colour[:, 2]
    course = (np.floor(z / 0.075) % 2 - 0.5) * brick * p.fade(0.15)
    colour = p.colour * (1 + 0.10 * p.noise(0.06) + 0.16 * p.noise(0.9) + 0.14 * course[:, None])
    colour *= (1 - 0.18 * np.exp(-np.maximum(z, 0) / 0.5))[:, None]
    frame = np.where(brick[:, None], 0.80, np.clip(p.colour * 1.25, 0, 0.9)) * np.ones(3)
    colour = _mix(colour, frame, kept * (out < 0.12) * seen)
    random = _random(column, level, p.instance)
    dark, curtain = (0.10, 0.12, 0.15) + 0.14 * random[:, None], (0.55, 0.52, 0.46)
    glass = np.where((random > 0.86)[:, None], curtain, dark)
    bar = (du < 0.035) & ~shop
    pane = kept & (out < 0)
    colour = _mix(colour, glass, pane & ~bar)
    paint = _random(p.instance, np.zeros_like(column))[:, None] * (0.5, -0.1, -0.4) + (0.22, 0.22, 0.35)
    entry = door & (du < 0.55) & (dz < 2.15)
    colour = _mix(colour, paint, entry)
    colour = _mix(colour, paint + 0.15, shop & (dz > 2.55) & (dz < 3.0))
    return colour, np.where(pane & ~bar & ~entry, 0.55 * seen, 0.0)


def _roof(p: _Patch) -> tuple[np.ndarray, float]:
    course = (np.floor(p.points[:, 2] / 0.22) % 2 - 0.5) * p.fade(0.44)
    return p.colour * (1 + 0.16 * course[:, None] + 0.25 * p.noise(0.12) + 0.15 * p.noise(1.5)), 0.0


def _bark(p: _Patch) -> tuple[np.ndarray, float]:
    # Stretched along the trunk.
    grain = noise(p.points * (1.0, 1.0, 0.2), 0.03)[:, None] - 0.5
    return p.colour * (1 + 0.6 * grain), 0.0


def _leaves(p: _Patch) -> tuple[np.ndarray, float]:
    shade = 0.72 + 0.30 * (0.5 * p.local[:, 2:] + 0.5)
    colour = p.colour * shade * (1 + 0.75 * p.noise(0.055) + 0.35 * p.noise(0.2))
    return _mix(colour, colour * (1.25, 1.10, 0.75), np.clip(noise(p.points, 0.11) * 2 - 1, 0, 1)), 0.0


def _cloth(p: _Patch) -> tuple[np.ndarray, float]:
    stripe = (np.floor(p.points[:, 2] / 0.06) % 2 - 0.5) * p.style[:, 0] * p.fade(0.12)
    return p.colour * (1 + 0.35 * p.noise(0.045) + 0.3 * stripe[:, None]), 0.0


def _car_body(p: _Patch) -> tuple[np.ndarray, np.ndarray]:
    role, wheel, radius, _ = p.style.T
    lx, ly, lz = p.local.T
    x = lx * p.half[:, 0]
    ay = np.abs(ly)
    colour = p.colour.copy()
    gloss = np.full(len(x), 0.30)
    ends, front, back = np.abs(lx) > 0.995, lx > 0.995, lx < -0.995
    upper, lower = (role == 1) & ends, (role == 2) & ends
    colour = _mix(colour, (0.90, 0.90, 0.86), upper & front & (ay > 0.62) & (ay < 0.95) & (np.abs(lz) < 0.7))
    colour = _mix(colour, (0.07, 0.07, 0.08), upper & front & (ay < 0.5) & (np.abs(lz) < 0.55))
    colour = _mix(colour, (0.62, 0.04, 0.04), upper & back & (ay > 0.68) & (ay < 0.97) & (np.abs(lz) < 0.85))
    colour = _mix(colour, (0.10, 0.10, 0.11), lower & (lz < -0.35))
    colour = _mix(colour, (0.88, 0.88, 0.80), lower & (ay < 0.28) & (lz > 0.05) & (lz < 0.75))
    side = np.abs(ly) > 0.995
    # A wheel's centre is one radius above the road.
    height = p.points[:, 2]
    arch = side & (np.hypot(np.abs(x) - wheel, height - radius) < radius + 0.06)
    seam = side & (role < 3) & (np.min(np.abs(x[:, None] - (-0.95, 0.05, 0.95)), axis=1) < 0.025)
    handle = side & (role == 1) & (lz > 0.3) & (lz < 0.55) & (np.abs(np.abs(x + 0.3) - 0.4) < 0.09)
    colour = _mix(colour, (0.04, 0.04, 0.04), arch)
    colour = colour * (1 - 0.5 * ((seam & (p.fade(0.12) > 0)) | handle))[:, None]
    colour = _mix(colour, (0.08, 0.08, 0.08), side & (role == 2) & (lz < -0.75))
    gloss[arch | (lower & (lz < -0.35))] = 0.0
    return colour, gloss


def _car_cabin(p: _Patch) -> tuple[np.ndarray, np.ndarray]:
    _, ly, lz = p.local.T
    side, end = np.abs(ly) > 0.99, np.abs(p.local[:, 0]) > 0.99
    glass = (side & (lz < 0.72) & (lz > -0.92)) | (end & ~side & (np.abs(ly) < 0.90) & (lz < 0.80))
    colour = _mix(p.colour, (0.05, 0.06, 0.07), glass)
    return colour, np.where(glass, 0.60, 0.30)


def _wheel(p: _Patch) -> tuple[np.ndarray, float]:
    out = np.hypot(p.local[:, 0], p.local[:, 1])
    cap = np.abs(p.local[:, 2]) > 0.99
    turn = np.arctan2(p.local[:, 1], p.local[:, 0])
    spoke = 0.32 + 0.3 * (np.cos(5 * turn) > -0.2)
    return np.where((cap & (out < 0.66))[:, None], spoke[:, None] * np.ones(3), p.colour), 0.0


_PAINT: dict[Material, Callable[[_Patch], tuple[np.ndarray, np.ndarray | float]]] = {
    Material.PLAIN: _plain,
    Material.GRASS: _grass,
    Material.ASPHALT: _asphalt,
    Material.PAVING: _paving,
    Material.FACADE: _facade,
    Material.ROOF: _roof,
    Material.BARK: _bark,
    Material.LEAVES: _leaves,
    Material.CLOTH: _cloth,
    Material.CAR_BODY: _car_body,
    Material.CAR_CABIN: _car_cabin,
    Material.WHEEL: _wheel,
    Material.UNDERSIDE: _plain,
}
