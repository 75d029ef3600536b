"""What a toy street is put together from: solids with a label and a material, and the things built of them.

Each thing (`car`, `person`, …) is a list of parts in its own frame: metres, x forward, y left, z up, standing
on z = 0. `place` puts it into the street.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from .raycast import Solid

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]


class Label(IntEnum):
    """The toy street's own class ids. OTHER: lawns, lamp posts, bins."""

    OTHER = 0
    ROAD = 1
    SIDEWALK = 2
    BUILDING = 3
    TREE = 4
    PERSON = 5
    CAR = 6
    SKY = 7


class Material(IntEnum):
    """What a surface is made of: decides its texture."""

    PLAIN = 0
    GRASS = 1
    ASPHALT = 2
    PAVING = 3
    FACADE = 4
    ROOF = 5
    BARK = 6
    LEAVES = 7
    CLOTH = 8
    CAR_BODY = 9
    CAR_CABIN = 10
    WHEEL = 11
    UNDERSIDE = 12


@dataclass(frozen=True)
class Part:
    """One solid with its meaning.

    Attributes:
        kind: which unit solid `axes` and `centre` are applied to.
        centre: (3,) metres.
        axes: (3, 3) metres, the columns are the half axes.
        colour: sRGB 0 .. 1.
        style: parameters of the material's texture; what they mean is said where the thing is built.
        instance: the thing it belongs to; set by `place`.
    """

    kind: Solid
    centre: np.ndarray
    axes: np.ndarray
    label: Label
    material: Material = Material.PLAIN
    colour: Colour = (0.5, 0.5, 0.5)
    style: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    instance: int = 0


@dataclass(frozen=True)
class Look:
    """Label, material, colour and style of a part: all but its shape."""

    label: Label
    material: Material = Material.PLAIN
    colour: Colour = (0.5, 0.5, 0.5)
    style: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def solid(self, kind: Solid, centre: Vector, axes: np.ndarray) -> Part:
        """A part of this look; centre (3,) and axes (3, 3) in metres."""
        centre, axes = np.asarray(centre, np.float64), np.asarray(axes, np.float64)
        return Part(kind, centre, axes, self.label, self.material, self.colour, self.style)

    def box(self, low: Vector, high: Vector, lean: float = 0.0) -> Part:
        """The upright box between two corners, its top moved by `lean` metres along x."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        axes = np.diag((high - low) / 2)
        axes[0, 2] = lean / 2
        return self.solid(Solid.BOX, (low + high) / 2 + (lean / 2, 0, 0), axes)

    def ball(self, centre: Vector, half: Vector) -> Part:
        """The ellipsoid with half axes along x, y, z."""
        return self.solid(Solid.ELLIPSOID, centre, np.diag(half))

    def rod(self, start: Vector, end: Vector, radius: float, kind: Solid = Solid.CYLINDER) -> Part:
        """A cylinder, or an ellipsoid, between two points."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        axis = (end - start) / 2
        x, y, z = axis
        # Two directions across the axis; the first from whichever of y and x is farther from it.
        side = np.array([-z, 0.0, x]) if abs(y) < 0.9 * np.sqrt(axis @ axis) else np.array([0.0, z, -y])
        a, b, c = side
        other = np.array([y * c - z * b, z * a - x * c, x * b - y * a])
        across = [v * (radius / np.sqrt(v @ v)) for v in (side, other)]
        return self.solid(kind, (start + end) / 2, np.stack([*across, axis], axis=1))


def place(parts: Iterable[Part], x: float, y: float, z: float, yaw: float, instance: int) -> list[Part]:
    """The parts turned by `yaw` radians about z, moved by (x, y, z) metres, and made one instance."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    move = np.array([x, y, z])
    return [replace(p, centre=turn @ p.centre + move, axes=turn @ p.axes, instance=instance) for p in parts]


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 0.04) -> Colour:
    """One of the colours, slightly changed."""
    colour = np.array(colours[rng.integers(len(colours))])
    colour += rng.normal(0, spread / 2, 3) + rng.normal(0, spread)
    return tuple(np.clip(colour, 0.02, 0.97).tolist())


_CAR_COLOURS = (
    (0.86, 0.86, 0.86), (0.70, 0.72, 0.74), (0.42, 0.44, 0.46), (0.12, 0.12, 0.13), (0.08, 0.09, 0.12),
    (0.62, 0.08, 0.08), (0.10, 0.20, 0.48), (0.16, 0.34, 0.60), (0.10, 0.30, 0.20), (0.80, 0.66, 0.16),
    (0.50, 0.40, 0.30), (0.75, 0.33, 0.10),
)  # fmt: skip
_SKIN_COLOURS = ((0.90, 0.72, 0.60), (0.82, 0.62, 0.48), (0.62, 0.42, 0.30), (0.42, 0.28, 0.20))
_HAIR_COLOURS = ((0.10, 0.08, 0.07), (0.28, 0.18, 0.10), (0.55, 0.40, 0.20), (0.60, 0.58, 0.56))
_TOP_COLOURS = (
    (0.15, 0.18, 0.30), (0.70, 0.12, 0.12), (0.85, 0.84, 0.80), (0.10, 0.10, 0.11), (0.25, 0.45, 0.30),
    (0.85, 0.65, 0.15), (0.30, 0.50, 0.75), (0.55, 0.25, 0.50), (0.45, 0.40, 0.32), (0.90, 0.45, 0.20),
)  # fmt: skip
_TROUSER_COLOURS = (
    (0.16, 0.20, 0.32),
    (0.10, 0.10, 0.12),
    (0.48, 0.42, 0.34),
    (0.30, 0.31, 0.33),
    (0.6, 0.58, 0.54),
)
_PLASTER_COLOURS = (
    (0.82, 0.76, 0.64), (0.78, 0.66, 0.50), (0.86, 0.83, 0.78), (0.72, 0.56, 0.44), (0.66, 0.68, 0.66),
    (0.80, 0.60, 0.50), (0.62, 0.66, 0.72), (0.84, 0.74, 0.48), (0.56, 0.54, 0.52),
)  # fmt: skip
_BRICK_COLOURS = ((0.52, 0.28, 0.21), (0.60, 0.36, 0.26), (0.44, 0.27, 0.22), (0.62, 0.48, 0.36))
_ROOF_COLOURS = ((0.48, 0.24, 0.18), (0.32, 0.30, 0.30), (0.24, 0.25, 0.28), (0.42, 0.32, 0.26))
_BARK_COLOURS = ((0.32, 0.25, 0.18), (0.42, 0.38, 0.32), (0.24, 0.18, 0.13))
_METAL_COLOURS = ((0.30, 0.32, 0.33), (0.15, 0.18, 0.17), (0.50, 0.50, 0.50))
_BIN_COLOURS = ((0.12, 0.25, 0.15), (0.25, 0.25, 0.27), (0.50, 0.20, 0.10))
_LEAF_COLOURS = (
    (0.22, 0.40, 0.12),
    (0.30, 0.46, 0.14),
    (0.16, 0.34, 0.14),
    (0.40, 0.46, 0.14),
    (0.60, 0.42, 0.12),
)


def car(rng: np.random.Generator) -> list[Part]:
    """A car that drives along +x: small car, saloon, estate or van.

    Style of a body: (its role, wheel x in metres, wheel radius in metres, 0). Roles: 1 the upper half with
    the lamps, 2 the lower half with the bumpers, 3 the belt below the windows.
    """
    kind = rng.choice(['small', 'saloon', 'estate', 'van'], p=[0.35, 0.3, 0.23, 0.12])
    length, height, belt, front, back, slope_front, slope_back = {
        'small': (3.8, 1.50, 0.92, 0.19, -0.48, 0.55, 0.35),
        'saloon': (4.6, 1.42, 0.90, 0.18, -0.36, 0.75, 0.65),
        'estate': (4.6, 1.62, 0.98, 0.20, -0.48, 0.65, 0.35),
        'van': (4.9, 2.05, 1.10, 0.36, -0.495, 0.70, 0.10),
    }[str(kind)]
    scale = rng.uniform(0.95, 1.06)
    length, height, belt = length * scale, height * scale, belt * scale
    half, wide = length / 2, (0.86 + 0.06 * (kind == 'van')) * scale
    radius = 0.32 * scale
    wheel = 0.31 * length
    middle = 0.6 * scale
    paint = pick(rng, _CAR_COLOURS)
    lower = Look(Label.CAR, Material.CAR_BODY, paint, (2.0, wheel, radius, 0.0))
    upper = Look(Label.CAR, Material.CAR_BODY, paint, (1.0, wheel, radius, 0.0))
    sill = Look(Label.CAR, Material.CAR_BODY, paint, (3.0, wheel, radius, 0.0))
    parts = [
        lower.box((-half, -wide, 0.24), (half, wide, middle)),
        # Bonnet and boot are a little lower than the windows' edge.
        upper.box((-half + 0.04, -wide + 0.02, middle), (half - 0.06, wide - 0.02, belt - 0.10)),
        sill.box((back * length, -wide + 0.06, belt - 0.12), (front * length + 0.25, wide - 0.06, belt)),
        Look(Label.CAR, Material.UNDERSIDE, (0.05, 0.05, 0.05)).box(
            (-half + 0.15, -wide + 0.1, 0.12), (half - 0.15, wide - 0.1, 0.26)
        ),
    ]
    # Two leaning boxes whose union is a trapezoid as seen from the side.
    cabin = Look(Label.CAR, Material.CAR_CABIN, paint)
    x0, x1 = back * length, front * length + 0.2
    run = x1 - x0
    overlap = (run - slope_back - slope_front) * 0.5
    side, other = wide - 0.12, wide - 0.124
    start, end = x0 + slope_back + overlap - 0.02, x1 - slope_front - overlap
    parts.append(cabin.box((x0, -side, belt), (end, side, height), lean=slope_back))
    # A little smaller, so that no two faces lie in one plane.
    parts.append(cabin.box((start, -other, belt), (x1, other, height - 0.004), lean=-slope_front))
    tyre = Look(Label.CAR, Material.WHEEL, (0.07, 0.07, 0.07))
    for x in (-wheel, wheel):
        for side in (-1, 1):
            inner, outer = side * (wide - 0.20), side * (wide + 0.01)
            parts.append(tyre.rod((x, inner, radius), (x, outer, radius), radius))
    return parts


def person(rng: np.random.Generator, fine: bool) -> list[Part]:
    """A standing or walking person who faces +x, 1.1 to 1.95 m tall; `fine` with hands and shoes.

    Style of cloth: (1 if striped, 0, 0, 0).
    """
    tall = rng.uniform(1.1, 1.4) if rng.random() < 0.12 else rng.normal(1.72, 0.09)
    stout = rng.uniform(0.92, 1.25)
    stride = rng.uniform(0.08, 0.20) if rng.random() < 0.7 else rng.uniform(0.0, 0.05)
    skin = Look(Label.PERSON, Material.PLAIN, pick(rng, _SKIN_COLOURS, 0.02))
    hair = Look(Label.PERSON, Material.PLAIN, pick(rng, _HAIR_COLOURS, 0.02))
    striped = (float(rng.random() < 0.2), 0.0, 0.0, 0.0)
    top = Look(Label.PERSON, Material.CLOTH, pick(rng, _TOP_COLOURS), striped)
    legs = Look(Label.PERSON, Material.CLOTH, pick(rng, _TROUSER_COLOURS))
    shoes = Look(Label.PERSON, Material.PLAIN, (0.08, 0.07, 0.07))
    sleeve = top if rng.random() < 0.7 else skin
    hip, shoulder, neck = 0.50, 0.81, 0.86
    parts = [
        top.ball((0, 0, 0.68), (0.065 * stout, 0.112 * stout, 0.20)),
        top.ball((0, 0, 0.78), (0.055, 0.125, 0.055)),
        legs.ball((0, 0, 0.51), (0.066 * stout, 0.095 * stout, 0.075)),
        skin.rod((0, 0, neck - 0.04), (0.005, 0, neck + 0.03), 0.028),
        skin.ball((0.008, 0, 0.925), (0.052, 0.042, 0.068)),
        hair.ball((-0.008, 0, 0.945), (0.053, 0.047, 0.060)),
    ]
    for side in (-1, 1):
        swing = side * stride
        foot = (swing, side * 0.055, 0.04)
        parts.append(legs.rod((0, side * 0.045, hip + 0.03), foot, 0.043 * stout))
        hand = (-swing * 0.9 + 0.03, side * 0.165 * stout, 0.47)
        parts.append(sleeve.rod((0, side * 0.125 * stout, shoulder), hand, 0.034, Solid.ELLIPSOID))
        if fine:
            parts.append(skin.ball(hand, (0.022, 0.018, 0.030)))
            parts.append(shoes.ball((swing + 0.03, side * 0.055, 0.022), (0.075, 0.030, 0.024)))
    extra = rng.random()
    if extra < 0.25:
        parts.append(top.rod((0, 0, 0.66), (0, 0, 0.33), 0.105 * stout))
    elif extra < 0.45:
        bag = Look(Label.PERSON, Material.CLOTH, pick(rng, _TOP_COLOURS))
        parts.append(bag.box((-0.15, -0.07, 0.58), (-0.04, 0.07, 0.80)))
    return [replace(part, centre=part.centre * tall, axes=part.axes * tall) for part in parts]


def tree(rng: np.random.Generator, height: float, balls: int) -> list[Part]:
    """A tree of about `height` metres: a trunk, and a crown of so many porous balls."""
    bark = Look(Label.TREE, Material.BARK, pick(rng, _BARK_COLOURS))
    colour = pick(rng, _LEAF_COLOURS)
    thick = height * rng.uniform(0.016, 0.026)
    stem = height * rng.uniform(0.28, 0.42)
    lean = rng.normal(0, 0.03, 2) * height
    parts = [bark.rod((0, 0, -0.1), (*lean, stem + 0.25 * height), thick)]
    crown = height * rng.uniform(0.20, 0.30)
    for i in range(balls):
        leaves = Look(
            Label.TREE,
            Material.LEAVES,
            tuple(np.clip(np.array(colour) * rng.uniform(0.8, 1.2), 0, 1).tolist()),
        )
        angle = 2.4 * i + rng.uniform(-0.4, 0.4)
        out = 0.0 if i == 0 else crown * rng.uniform(0.55, 0.95)
        size = crown * (0.85 if i == 0 else rng.uniform(0.45, 0.75))
        centre_z = (stem + height) / 2 + (0 if i == 0 else (height - stem) * rng.uniform(-0.3, 0.28))
        up = max(size, (height - stem) / 2) if i == 0 else size * rng.uniform(0.7, 1.0)
        centre = (lean[0] + out * np.cos(angle), lean[1] + out * np.sin(angle), centre_z)
        parts.append(leaves.ball(centre, (size, size, up)))
    return parts


def building(rng: np.random.Generator, width: float, depth: float, height: float, side: int) -> list[Part]:
    """A building, `width` along x and `depth` along y; its front is towards -y on `side` +1 (left), else +y.

    Style of a facade: (storey height in metres, window spacing in metres, window width as a share of it,
    kind of the ground floor: 0 windows, 1 shop).
    """
    brick = rng.random() < 0.4
    colour = pick(rng, _BRICK_COLOURS if brick else _PLASTER_COLOURS)
    storey = rng.uniform(2.8, 3.4)
    height = max(round(height / storey), 1) * storey + 0.4
    style = (storey, rng.uniform(1.7, 3.0), rng.uniform(0.38, 0.66), float(rng.random() < 0.45))
    wall = Look(Label.BUILDING, Material.FACADE, colour, style)
    bright = tuple(np.clip(np.array(colour) * rng.uniform(0.75, 1.25), 0, 0.95).tolist())
    trim = Look(Label.BUILDING, Material.PLAIN, bright)
    roof = Look(Label.BUILDING, Material.ROOF, pick(rng, _ROOF_COLOURS))
    w, d = width / 2, depth / 2
    parts = [wall.box((-w, -d, -0.2), (w, d, height))]
    front = -side * d
    if rng.random() < 0.7:
        out = sorted((front, front - side * 0.12))
        parts.append(trim.box((-w, out[0], storey + 0.05), (w, out[1], storey + 0.32)))
    if rng.random() < 0.5:
        rise = d * rng.uniform(0.5, 0.9)
        # The gables: the upper half of a rhombus, its lower half is inside the walls. Two slabs lie on it.
        gable = [[w - 0.01, 0, 0], [0, d / 2, -d / 2], [0, rise / 2, rise / 2]]
        parts.append(Look(Label.BUILDING, Material.PLAIN, colour).solid(Solid.BOX, (0, 0, height), gable))
        out = d + 0.35
        drop = rise * out / d
        for slope in (-1, 1):
            slab = [[w + 0.2, 0, 0], [0, slope * out / 2, 0], [0, -drop / 2, 0.1]]
            parts.append(roof.solid(Solid.BOX, (0, slope * out / 2, height + rise - drop / 2 + 0.05), slab))
        if rng.random() < 0.6:
            x = rng.uniform(-0.6, 0.6) * w
            parts.append(trim.box((x - 0.4, -0.4, height), (x + 0.4, 0.4, height + rise + 0.7)))
    else:
        cornice = height + rng.uniform(0.25, 0.6)
        parts.append(trim.box((-w - 0.15, -d - 0.2, height), (w + 0.15, d + 0.2, cornice)))
        if rng.random() < 0.5:
            x = rng.uniform(-0.5, 0.5) * w
            parts.append(roof.box((x - 1.5, -1.5, height), (x + 1.5, 1.5, height + 2.4)))
    if rng.random() < 0.35 and height > 2 * storey:
        # Balconies on the front, one above the other.
        x = rng.uniform(-0.4, 0.4) * w
        rail = Look(Label.BUILDING, Material.PLAIN, pick(rng, ((0.3, 0.3, 0.32), (0.8, 0.8, 0.78))))
        out = sorted((front, front - side * 1.0))
        for level in range(1, int(height / storey)):
            z = level * storey
            parts.append(rail.box((x - 1.4, out[0], z), (x + 1.4, out[1], z + 0.9)))
    return parts


def lamp_post(rng: np.random.Generator, side: int) -> list[Part]:
    """A street lamp, 5 to 7 m, its arm over the road (towards y = 0 from `side`)."""
    metal = Look(Label.OTHER, Material.PLAIN, pick(rng, _METAL_COLOURS))
    tall = rng.uniform(5.0, 7.0)
    return [
        metal.rod((0, 0, 0), (0, 0, tall), 0.07),
        metal.rod((0, 0, tall - 0.05), (0, -side * 1.3, tall + 0.1), 0.04),
        metal.ball((0, -side * 1.4, tall + 0.08), (0.14, 0.32, 0.08)),
    ]


def litter_bin(rng: np.random.Generator) -> list[Part]:
    """A litter bin."""
    look = Look(Label.OTHER, Material.PLAIN, pick(rng, _BIN_COLOURS))
    return [look.rod((0, 0, 0), (0, 0, rng.uniform(0.8, 1.1)), rng.uniform(0.2, 0.3))]
