"""The colours of the toy street's surfaces: fixed functions of where a ray hits.

Patterns fade to their mean where one pixel covers a period of them, so that nothing flickers far away.
"""

import numpy as np

from .parts import Material, Vector
from .raycast import Hits, Street, noise


def _random(*cells: np.ndarray) -> np.ndarray:
    """A random number 0 .. 1 for each tuple of integers."""
    mixed = np.uint64(0)
    for cell in cells:
        mixed = (mixed ^ cell.astype(np.int64).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed & np.uint64(0xFFFF)).astype(np.float64) / 0xFFFF


def _mix(colour: np.ndarray, other: Vector, weight: np.ndarray) -> np.ndarray:
    """Colour (n, 3) moved towards other by weight (n,)."""
    return colour + (other - colour) * weight[:, None]


class _Patch:
    """The n hit points of one material and what is known of their solids; a method for each material gives colours.

    Fields are as in `Hits` and `Street`; points are also x, y, z, and local is u, v, w. Colours are (n, 3); a method
    also sets `gloss`, the share of mirrored light, 0 .. 1, where that is not 0.
    """

    def __init__(self, street: Street, hits: Hits, at: np.ndarray, footprint: np.ndarray) -> None:
        solid = hits.primitive[at]
        self.layout, self.footprint, self.gloss = street.layout, footprint[at], np.zeros(len(at))
        self.points, self.normal = hits.points[at], hits.normal[at]
        (self.x, self.y, self.z), (self.u, self.v, self.w) = self.points.T, hits.local[at].T
        self.half, self.colour = street.half[solid], street.colour[solid]
        self.style, self.instance = street.style[solid], street.instance[solid]

    def fade(self, period: float | np.ndarray) -> np.ndarray:
        """How much of a pattern of this period (metres) can be seen, (n,) in 0 .. 1."""
        return np.clip(1.6 - 1.6 * self.footprint / period, 0.0, 1.0)

    def noise(self, cell: float) -> np.ndarray:
        """Noise about 0 (-0.5 .. 0.5), faded where it is too fine to see, (n, 1)."""
        return ((noise(self.points, cell) - 0.5) * self.fade(2 * cell))[:, None]

    def courses(self, height: float, z: np.ndarray | None = None) -> np.ndarray:
        """Level stripes of this height (metres), -0.5 or 0.5, faded likewise, (n, 1)."""
        return ((np.floor((self.z if z is None else z) / height) % 2 - 0.5) * self.fade(2 * height))[:, None]

    def grass(self) -> np.ndarray:
        colour = self.colour * (1 + 0.5 * self.noise(0.06) + 0.35 * self.noise(0.7))
        return _mix(colour, (0.45, 0.38, 0.26), 0.5 * np.clip(noise(self.points, 1.3) * 3 - 1.9, 0, 1))

    def asphalt(self) -> np.ndarray:
        colour = self.colour * (1 + 0.34 * self.noise(0.025) + 0.10 * self.noise(0.12) + 0.14 * self.noise(1.6))
        # A patch mended with darker asphalt here and there.
        colour *= 1 - 0.16 * (_random(np.floor(self.x / 4.5), np.floor(self.y / 1.7)) > 0.93)[:, None]
        right, left = self.layout.road
        inside = (self.y > right) & (self.y < left)
        gutter = np.clip(1 - np.minimum(self.y - right, left - self.y) / 0.35, 0, 1) * inside
        colour *= 1 - 0.25 * gutter[:, None]
        white = (np.abs(self.y - self.layout.divider) < 0.07) & ((self.x % 6.0) < 3.0)
        for line in self.layout.parking:
            white |= (np.abs(self.y - line) < 0.05) & ((self.x % 1.0) < 0.6)
        for zebra in self.layout.zebras:
            near = np.abs(self.x - zebra)
            white &= near > 2.4
            white |= (near < 1.6) & (self.y % 1.0 < 0.5) & (self.y > right + 0.3) & (self.y < left - 0.3)
        worn = 0.85 - 0.5 * np.clip(noise(self.points, 0.09) * 4 - 2.6, 0, 1)
        return _mix(colour, (0.82, 0.82, 0.78), white * inside * worn)

    def paving(self) -> np.ndarray:
        slab = self.style[:, 0]
        row = np.floor(self.y / slab)
        u, v = self.x / slab + 0.5 * (row % 2), self.y / slab
        joint = np.minimum(u % 1.0, v % 1.0) * slab < 0.03
        tone = ((_random(np.floor(u), row) - 0.5) * self.fade(slab))[:, None]
        colour = self.colour * (1 + 0.16 * tone + 0.12 * self.noise(0.04) + 0.14 * self.noise(1.1))
        colour *= 1 - 0.30 * (joint * self.fade(0.35))[:, None]
        right, left = self.layout.road
        kerb = (self.normal[:, 2] < 0.5) | (np.minimum(np.abs(self.y - right), np.abs(self.y - left)) < 0.16)
        stone = np.where(self.x % 1.0 < 0.03, 0.45, 0.64)[:, None]
        return np.where(kerb[:, None], stone * (1 + 0.15 * self.noise(0.05)), colour)

    def facade(self) -> np.ndarray:
        storey, spacing, share, ground = self.style.T
        # Fronts and backs are the faces across the solid's own y.
        along_x = np.abs(self.v) > np.abs(self.u)
        half = np.where(along_x, self.half[:, 0], self.half[:, 1])
        u = np.where(along_x, self.u, self.v) * half + half
        z = self.w * self.half[:, 2] + self.half[:, 2] - 0.2
        spacing = 2 * half / np.maximum(np.floor(2 * half / spacing), 1)
        column, level = np.floor(u / spacing), np.floor(z / storey)
        du, dz = np.abs(u / spacing - column - 0.5) * spacing, z - level * storey
        shop = (level <= 0) & (ground > 0.5) & along_x
        wide = np.where(shop, 0.44, share / 2) * spacing
        sill, top = np.where(shop, 0.45, 0.30 * storey), np.where(shop, 2.5, 0.80 * storey)
        out = np.maximum(du - wide, np.maximum(sill - dz, dz - top))
        # The side walls have few windows, and nothing is above the last full storey.
        kept = (along_x | (_random(column, self.instance) > 0.55)) & ((level + 1) * storey <= 2 * self.half[:, 2])
        seen = self.fade(spacing * 0.7)
        brick = (self.colour[:, 0] > 1.45 * self.colour[:, 2])[:, None]
        course = 0.14 * self.courses(0.075, z) * brick
        colour = self.colour * (1 + 0.10 * self.noise(0.06) + 0.16 * self.noise(0.9) + course)
        colour *= (1 - 0.18 * np.exp(-np.maximum(z, 0) / 0.5))[:, None]
        colour = _mix(colour, np.where(brick, 0.80, np.clip(self.colour * 1.25, 0, 0.9)), kept * (out < 0.12) * seen)
        random = _random(column, level, self.instance)[:, None]
        glass = np.where(random > 0.86, (0.55, 0.52, 0.46), (0.10, 0.12, 0.15) + 0.14 * random)
        pane = kept & (out < 0) & ((du >= 0.035) | shop)
        colour = _mix(colour, glass, pane)
        paint = _random(self.instance, np.zeros_like(column))[:, None] * (0.5, -0.1, -0.4) + (0.22, 0.22, 0.35)
        door = (level <= 0) & ~shop & along_x & (du < 0.55) & (dz < 2.15)
        door &= _random(column, self.instance, level) < 0.25
        colour = _mix(colour, paint, door)
        self.gloss = np.where(pane & ~door, 0.55 * seen, 0.0)
        return _mix(colour, paint + 0.15, shop & (dz > 2.55) & (dz < 3.0))

    def bark(self) -> np.ndarray:
        # Stretched along the trunk.
        return self.colour * (1 + 0.6 * (noise(self.points * (1.0, 1.0, 0.2), 0.03)[:, None] - 0.5))

    def leaves(self) -> np.ndarray:
        shade = 0.72 + 0.30 * (0.5 * self.w[:, None] + 0.5)
        colour = self.colour * shade * (1 + 0.75 * self.noise(0.055) + 0.35 * self.noise(0.2))
        return _mix(colour, colour * (1.25, 1.10, 0.75), np.clip(noise(self.points, 0.11) * 2 - 1, 0, 1))

    def body(self) -> np.ndarray:
        role, wheel, radius, _ = self.style.T
        x, ay, lz, az = self.u * self.half[:, 0], np.abs(self.v), self.w, np.abs(self.w)
        side, front, back = ay > 0.995, (role == 1) & (self.u > 0.995), (role == 1) & (self.u < -0.995)
        bumper = (role == 2) & (np.abs(self.u) > 0.995)
        # A wheel's centre is one radius above the road.
        arch = side & (np.hypot(np.abs(x) - wheel, self.z - radius) < radius + 0.06)
        seam = side & (role < 3) & (np.min(np.abs(x[:, None] - (-0.95, 0.05, 0.95)), axis=1) < 0.025)
        handle = side & (role == 1) & (lz > 0.3) & (lz < 0.55) & (np.abs(np.abs(x + 0.3) - 0.4) < 0.09)
        colour = _mix(self.colour, (0.90, 0.90, 0.86), front & (ay > 0.62) & (ay < 0.95) & (az < 0.7))
        colour = _mix(colour, (0.07, 0.07, 0.08), front & (ay < 0.5) & (az < 0.55))
        colour = _mix(colour, (0.62, 0.04, 0.04), back & (ay > 0.68) & (ay < 0.97) & (az < 0.85))
        colour = _mix(colour, (0.10, 0.10, 0.11), bumper & (lz < -0.35))
        colour = _mix(colour, (0.88, 0.88, 0.80), bumper & (ay < 0.28) & (lz > 0.05) & (lz < 0.75))
        colour = _mix(colour, (0.04, 0.04, 0.04), arch)
        colour *= (1 - 0.5 * ((seam & (self.fade(0.12) > 0)) | handle))[:, None]
        self.gloss = np.where(arch | (bumper & (lz < -0.35)), 0.0, 0.30)
        return _mix(colour, (0.08, 0.08, 0.08), side & (role == 2) & (lz < -0.75))

    def cabin(self) -> np.ndarray:
        end, side, z = np.abs(self.u) > 0.99, np.abs(self.v), self.w
        glass = np.where(side > 0.99, (z < 0.72) & (z > -0.92), end & (side < 0.90) & (z < 0.80))
        self.gloss = np.where(glass, 0.60, 0.30)
        return _mix(self.colour, (0.05, 0.06, 0.07), glass)

    def wheel(self) -> np.ndarray:
        spoke = 0.32 + 0.3 * (np.cos(5 * np.arctan2(self.v, self.u)) > -0.2)
        rim = (np.abs(self.w) > 0.99) & (np.hypot(self.u, self.v) < 0.66)
        return np.where(rim[:, None], spoke[:, None], self.colour)

    def plain(self) -> np.ndarray:
        return self.colour * (1 + 0.10 * self.noise(0.3))

    def roof(self) -> np.ndarray:
        return self.colour * (1 + 0.16 * self.courses(0.22) + 0.25 * self.noise(0.12) + 0.15 * self.noise(1.5))

    def cloth(self) -> np.ndarray:
        return self.colour * (1 + 0.35 * self.noise(0.045) + 0.3 * self.courses(0.06) * self.style[:, :1])

    underside = plain


def surface_colour(street: Street, hits: Hits, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour (N, 3), sRGB, and gloss (N,), the share of mirrored light, of N hits; both float64, 0 .. 1.

    No misses may be among the hits; `footprint` (N,) is the width in metres that a pixel covers at each.
    """
    colour, gloss = np.empty((len(footprint), 3)), np.empty(len(footprint))
    materials = street.material[hits.primitive]
    for material in Material:
        at = np.flatnonzero(materials == material)
        if len(at):
            patch = _Patch(street, hits, at, footprint)
            colour[at], gloss[at] = getattr(patch, material.name.lower())(), patch.gloss
    return np.clip(colour, 0.01, 0.98, out=colour), gloss
