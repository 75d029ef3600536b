"""What a toy street is put together from: solids with a look, and the things built of them.

Each thing (`car`, `person`, …) is a list of parts in its own frame: metres, x forward, y left, z up, standing
on z = 0. `place` puts it into the street.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import numpy as np

# The unit solids: the cube |x|, |y|, |z| <= 1, the cylinder of radius 1 and |z| <= 1, and the ball of radius 1; as
# numbers, how many of their coordinates are round.
BOX, CYLINDER, ELLIPSOID = 0, 2, 3
# The toy street's own class ids. OTHER: lawns, lamp posts, bins.
Label = IntEnum('Label', 'OTHER ROAD SIDEWALK BUILDING TREE PERSON CAR SKY', start=0)
# What a surface is made of: decides its texture.
Material = IntEnum('Material', 'PLAIN GRASS ASPHALT PAVING FACADE ROOF BARK LEAVES CLOTH BODY CABIN WHEEL UNDERSIDE')
Vector = tuple[float, float, float] | np.ndarray


class Part(NamedTuple):
    """A solid and its looks; by default the unit box. `solid`, `box`, `ball` and `rod` give it another shape."""

    label: Label
    material: Material = Material.PLAIN
    colour: Vector = (0.5, 0.5, 0.5)  # sRGB, 0 .. 1
    style: tuple[float, ...] = ()  # up to four parameters of the texture: see the thing that is built
    kind: int = BOX
    centre: np.ndarray = np.zeros(3)  # metres
    axes: np.ndarray = np.eye(3)  # metres; the columns are the half axes
    instance: int = 0  # number of the thing it belongs to

    def solid(self, kind: int, centre: Vector, axes: np.ndarray) -> 'Part':
        """The image of a unit solid, centre (3,) and axes (3, 3) in metres."""
        return self._replace(kind=kind, centre=np.asarray(centre, float), axes=np.asarray(axes, float))

    def box(self, corner: Vector, opposite: Vector, lean: float = 0.0) -> 'Part':
        """The upright box between two corners, its top moved by `lean` metres along x."""
        low, high = np.minimum(corner, opposite), np.maximum(corner, opposite)
        axes = np.diag((high - low) / 2)
        axes[0, 2] = lean / 2
        return self.solid(BOX, (low + high) / 2 + (lean / 2, 0, 0), axes)

    def ball(self, centre: Vector, half: Vector) -> 'Part':
        """The ellipsoid with half axes along x, y, z."""
        return self.solid(ELLIPSOID, centre, np.diag(half))

    def rod(self, start: Vector, end: Vector, radius: float, kind: int = CYLINDER) -> 'Part':
        """A cylinder, or an ellipsoid, between two points."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        axis = (end - start) / 2
        x, y, z = axis
        # Two directions across the axis; the first from whichever of y and x is farther from it.
        a, b, c = (-z, 0.0, x) if abs(y) < 0.9 * np.sqrt(axis @ axis) else (0.0, z, -y)
        across = np.array([[a, b, c], [y * c - z * b, z * a - x * c, x * b - y * a]])
        across = [v * (radius / np.sqrt(v @ v)) for v in across]
        return self.solid(kind, (start + end) / 2, np.array([*across, axis]).T)


def rotation(axis: int, angle: float) -> np.ndarray:
    """The matrix (3, 3) that turns by `angle` radians about x (0), y (1) or z (2)."""
    turn, i, j = np.eye(3), axis - 2, axis - 1
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[j, i] = np.sin(angle)
    turn[i, j] = -turn[j, i]
    return turn


def place(parts: Iterable[Part], x: float, y: float, z: float, yaw: float, instance: int) -> list[Part]:
    """The parts turned by `yaw` radians about z, moved by (x, y, z) metres, and made one instance."""
    turn, move = rotation(2, yaw), np.array([x, y, z])
    return [p._replace(centre=turn @ p.centre + move, axes=turn @ p.axes, instance=instance) for p in parts]


# sRGB in per cent.
_PALETTES = {
    name: np.array(colours.split(), np.float64).reshape(-1, 3) / 100
    for name, colours in {
        'car': '86 86 86  70 72 74  42 44 46  12 12 13   8  9 12  62  8  8  10 20 48  16 34 60  10 30 20  80 66 16  '
        '50 40 30  75 33 10',
        'skin': '90 72 60  82 62 48  62 42 30  42 28 20',
        'hair': '10  8  7  28 18 10  55 40 20  60 58 56',
        'top': '15 18 30  70 12 12  85 84 80  10 10 11  25 45 30  85 65 15  30 50 75  55 25 50  45 40 32  90 45 20',
        'trousers': '16 20 32  10 10 12  48 42 34  30 31 33  60 58 54',
        'plaster': '82 76 64  78 66 50  86 83 78  72 56 44  66 68 66  80 60 50  62 66 72  84 74 48  56 54 52',
        'brick': '52 28 21  60 36 26  44 27 22  62 48 36',
        'roof': '48 24 18  32 30 30  24 25 28  42 32 26',
        'balcony': '30 30 32  80 80 78',
        'bark': '32 25 18  42 38 32  24 18 13',
        'leaves': '22 40 12  30 46 14  16 34 14  40 46 14  60 42 12',
        'metal': '30 32 33  15 18 17  50 50 50',
        'bin': '12 25 15  25 25 27  50 20 10',
        'asphalt': '30 30 31  38 37 36',
        'stone': '58 56 53  50 50 50  60 52 46',
        'lawn': '30 40 16  38 38 22',
    }.items()
}


def pick(rng: np.random.Generator, palette: str, spread: float = 0.04) -> np.ndarray:
    """One of a palette's colours, slightly changed."""
    colours = _PALETTES[palette]
    colour = colours[rng.integers(len(colours))] + (rng.normal(0, spread / 2, 3) + rng.normal(0, spread))
    return np.clip(colour, 0.02, 0.97)


# Metres, but front and back of the cabin in lengths from the middle: length, height, half width, height of the
# windows' lower edge, front, back, slope of the windscreen, slope of the rear window; and their share of the cars.
_CARS = (
    (3.8, 1.50, 0.86, 0.92, 0.19, -0.48, 0.55, 0.35, 0.35),  # small car
    (4.6, 1.42, 0.86, 0.90, 0.18, -0.36, 0.75, 0.65, 0.3),  # saloon
    (4.6, 1.62, 0.86, 0.98, 0.20, -0.48, 0.65, 0.35, 0.23),  # estate
    (4.9, 2.05, 0.86 + 0.06, 1.10, 0.36, -0.495, 0.70, 0.10, 0.12),  # van
)


def car(rng: np.random.Generator) -> list[Part]:
    """A car that drives along +x.

    Style of a body: its role, wheel x and wheel radius in metres. Roles: 1 the upper half with the lamps,
    2 the lower half with the bumpers, 3 the belt below the windows.
    """
    *sizes, front, back, slope_front, slope_back, _ = _CARS[rng.choice(len(_CARS), p=[car[-1] for car in _CARS])]
    scale = rng.uniform(0.95, 1.06)
    length, height, wide, belt, radius, middle = scale * np.array([*sizes, 0.32, 0.6])
    half, wheel = length / 2, 0.31 * length
    paint = pick(rng, 'car')
    upper, lower, sill = (Part(Label.CAR, Material.BODY, paint, (role, wheel, radius)) for role in (1, 2, 3))
    cabin = Part(Label.CAR, Material.CABIN, paint)
    under = Part(Label.CAR, Material.UNDERSIDE, (0.05, 0.05, 0.05))
    tyre = Part(Label.CAR, Material.WHEEL, (0.07, 0.07, 0.07))
    # Two leaning boxes whose union is a trapezoid as seen from the side.
    x0, x1 = back * length, front * length + 0.2
    overlap = (x1 - x0 - slope_back - slope_front) * 0.5
    start, end = x0 + slope_back + overlap - 0.02, x1 - slope_front - overlap
    side, other = wide - 0.12, wide - 0.124
    parts = [
        lower.box((-half, -wide, 0.24), (half, wide, middle)),
        # Bonnet and boot are a little lower than the windows' edge.
        upper.box((-half + 0.04, -wide + 0.02, middle), (half - 0.06, wide - 0.02, belt - 0.10)),
        sill.box((x0, -wide + 0.06, belt - 0.12), (front * length + 0.25, wide - 0.06, belt)),
        under.box((-half + 0.15, -wide + 0.1, 0.12), (half - 0.15, wide - 0.1, 0.26)),
        cabin.box((x0, -side, belt), (end, side, height), lean=slope_back),
        # A little smaller, so that no two faces lie in one plane.
        cabin.box((start, -other, belt), (x1, other, height - 0.004), lean=-slope_front),
    ]
    for x, y in ((-wheel, -1), (-wheel, 1), (wheel, -1), (wheel, 1)):
        parts.append(tyre.rod((x, y * (wide - 0.20), radius), (x, y * (wide + 0.01), radius), radius))
    return parts


def person(rng: np.random.Generator, fine: bool) -> list[Part]:
    """A standing or walking person who faces +x, 1.1 to 1.95 m tall; `fine` with hands and shoes.

    Style of cloth: 1 if striped.
    """
    tall = rng.uniform(1.1, 1.4) if rng.random() < 0.12 else rng.normal(1.72, 0.09)
    stout = rng.uniform(0.92, 1.25)
    stride = rng.uniform(0.08, 0.20) if rng.random() < 0.7 else rng.uniform(0.0, 0.05)
    skin = Part(Label.PERSON, Material.PLAIN, pick(rng, 'skin', 0.02))
    hair = Part(Label.PERSON, Material.PLAIN, pick(rng, 'hair', 0.02))
    striped = rng.random() < 0.2
    top = Part(Label.PERSON, Material.CLOTH, pick(rng, 'top'), (striped,))
    legs = Part(Label.PERSON, Material.CLOTH, pick(rng, 'trousers'))
    shoes = Part(Label.PERSON, Material.PLAIN, (0.08, 0.07, 0.07))
    sleeve = top if rng.random() < 0.7 else skin
    # In heights of the person.
    parts = [
        top.ball((0, 0, 0.68), (0.065 * stout, 0.112 * stout, 0.20)),
        top.ball((0, 0, 0.78), (0.055, 0.125, 0.055)),
        legs.ball((0, 0, 0.51), (0.066 * stout, 0.095 * stout, 0.075)),
        skin.rod((0, 0, 0.82), (0.005, 0, 0.89), 0.028),
        skin.ball((0.008, 0, 0.925), (0.052, 0.042, 0.068)),
        hair.ball((-0.008, 0, 0.945), (0.053, 0.047, 0.060)),
    ]
    for side in (-1, 1):
        swing = side * stride
        hand = (-swing * 0.9 + 0.03, side * 0.165 * stout, 0.47)
        parts.append(legs.rod((0, side * 0.045, 0.53), (swing, side * 0.055, 0.04), 0.043 * stout))
        parts.append(sleeve.rod((0, side * 0.125 * stout, 0.81), hand, 0.034, ELLIPSOID))
        if fine:
            parts.append(skin.ball(hand, (0.022, 0.018, 0.030)))
            parts.append(shoes.ball((swing + 0.03, side * 0.055, 0.022), (0.075, 0.030, 0.024)))
    extra = rng.random()
    if extra < 0.25:  # a coat or a skirt
        parts.append(top.rod((0, 0, 0.66), (0, 0, 0.33), 0.105 * stout))
    elif extra < 0.45:
        bag = legs._replace(colour=pick(rng, 'top'))
        parts.append(bag.box((-0.15, -0.07, 0.58), (-0.04, 0.07, 0.80)))
    return [part._replace(centre=part.centre * tall, axes=part.axes * tall) for part in parts]


def tree(rng: np.random.Generator, height: float, balls: int) -> list[Part]:
    """A tree of about `height` metres: a trunk, and a crown of so many porous balls, the first in its middle."""
    bark = Part(Label.TREE, Material.BARK, pick(rng, 'bark'))
    colour = pick(rng, 'leaves')
    thick, stem = height * rng.uniform(0.016, 0.026), height * rng.uniform(0.28, 0.42)
    lean = rng.normal(0, 0.03, 2) * height
    parts = [bark.rod((0, 0, -0.1), (*lean, stem + 0.25 * height), thick)]
    crown = height * rng.uniform(0.20, 0.30)
    for i in range(balls):
        leaves = Part(Label.TREE, Material.LEAVES, np.clip(colour * rng.uniform(0.8, 1.2), 0, 1))
        angle = 2.4 * i + rng.uniform(-0.4, 0.4)
        out, size, rise, up = 0.0, crown * 0.85, 0.0, max(crown * 0.85, (height - stem) / 2)
        if i > 0:
            out, size = crown * rng.uniform(0.55, 0.95), crown * rng.uniform(0.45, 0.75)
            rise, up = (height - stem) * rng.uniform(-0.3, 0.28), size * rng.uniform(0.7, 1.0)
        x, y = lean + out * np.array([np.cos(angle), np.sin(angle)])
        parts.append(leaves.ball((x, y, (stem + height) / 2 + rise), (size, size, up)))
    return parts


def building(rng: np.random.Generator, width: float, depth: float, height: float, side: int) -> list[Part]:
    """A building, `width` along x and `depth` along y; its front is towards -y on `side` +1 (left), else +y.

    Style of a facade: storey height in metres, window spacing in metres, window width as a share of it, kind of
    the ground floor (0 windows, 1 shop).
    """
    colour = pick(rng, 'brick' if rng.random() < 0.4 else 'plaster')
    storey = rng.uniform(2.8, 3.4)
    height = max(round(height / storey), 1) * storey + 0.4
    style = (storey, rng.uniform(1.7, 3.0), rng.uniform(0.38, 0.66), rng.random() < 0.45)
    wall = Part(Label.BUILDING, Material.FACADE, colour, style)
    gable = Part(Label.BUILDING, Material.PLAIN, colour)
    trim = Part(Label.BUILDING, Material.PLAIN, np.clip(colour * rng.uniform(0.75, 1.25), 0, 0.95))
    roof = Part(Label.BUILDING, Material.ROOF, pick(rng, 'roof'))
    w, d, front = width / 2, depth / 2, -side * depth / 2
    parts = [wall.box((-w, -d, -0.2), (w, d, height))]
    if rng.random() < 0.7:
        parts.append(trim.box((-w, front, storey + 0.05), (w, front - side * 0.12, storey + 0.32)))
    if rng.random() < 0.5:
        rise = d * rng.uniform(0.5, 0.9)
        # The gables: the upper half of a rhombus, its lower half is inside the walls. Two slabs lie on it.
        rhombus = [[w - 0.01, 0, 0], [0, d / 2, -d / 2], [0, rise / 2, rise / 2]]
        parts.append(gable.solid(BOX, (0, 0, height), rhombus))
        out = d + 0.35
        drop = rise * out / d
        for slope in (-1, 1):
            slab = [[w + 0.2, 0, 0], [0, slope * out / 2, 0], [0, -drop / 2, 0.1]]
            parts.append(roof.solid(BOX, (0, slope * out / 2, height + rise - drop / 2 + 0.05), slab))
        chance, off, half, top, look = 0.6, 0.6, 0.4, height + rise + 0.7, trim
    else:
        cornice = height + rng.uniform(0.25, 0.6)
        parts.append(trim.box((-w - 0.15, -d - 0.2, height), (w + 0.15, d + 0.2, cornice)))
        chance, off, half, top, look = 0.5, 0.5, 1.5, height + 2.4, roof
    if rng.random() < chance:  # a chimney, or a hut on a flat roof
        x = rng.uniform(-off, off) * w
        parts.append(look.box((x - half, -half, height), (x + half, half, top)))
    if rng.random() < 0.35 and height > 2 * storey:
        # Balconies on the front, one above the other.
        x = rng.uniform(-0.4, 0.4) * w
        rail = Part(Label.BUILDING, Material.PLAIN, pick(rng, 'balcony'))
        for z in storey * np.arange(1, int(height / storey)):
            parts.append(rail.box((x - 1.4, front, z), (x + 1.4, front - side * 1.0, z + 0.9)))
    return parts


def lamp_post(rng: np.random.Generator, side: int) -> list[Part]:
    """A street lamp, 5 to 7 m, its arm over the road (towards y = 0 from `side`)."""
    metal = Part(Label.OTHER, Material.PLAIN, pick(rng, 'metal'))
    tall = rng.uniform(5.0, 7.0)
    return [
        metal.rod((0, 0, 0), (0, 0, tall), 0.07),
        metal.rod((0, 0, tall - 0.05), (0, -side * 1.3, tall + 0.1), 0.04),
        metal.ball((0, -side * 1.4, tall + 0.08), (0.14, 0.32, 0.08)),
    ]
