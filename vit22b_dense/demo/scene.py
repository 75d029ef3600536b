"""The toy street's geometry: what stands where, without cameras, light or files.

Frame: the ego vehicle's, metres, x forward, y left, z up, the road surface at z = 0. The ego vehicle drives
in the right-hand lane, so y = 0 is the middle of that lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import parts as make
from .parts import Label, Look, Material, Part, pick, place
from .raycast import Solids


@dataclass(frozen=True)
class Layout:
    """Plan of the road. Metres.

    Attributes:
        road: y of the road's right and left edges (low, high).
        divider: y of the dashed line between the two lanes.
        parking: y of the lines that part off the parking strips, one a strip.
        zebras: x of the middle of each zebra crossing.
        side_streets: (side, x low, x high) of each street that joins; side is -1 right, +1 left.
    """

    road: tuple[float, float]
    divider: float
    parking: tuple[float, ...]
    zebras: tuple[float, ...]
    side_streets: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Hits:
    """What N rays hit. For a miss: distance inf, label SKY, primitive, instance and material -1.

    Attributes:
        distance: (N,) float64, metres along the ray.
        label: (N,) uint8, values of `Label`.
        normal: (N, 3) float64, unit, on the side the ray comes from; 0 where nothing is hit.
        primitive: (N,) int64, index into the street's solids.
        instance: (N,) int64; the parts of one car, person, tree or building share a number.
        material: (N,) int64, values of `Material`.
        points: (N, 3) float64, the hit points, metres; 0 where nothing is hit.
        local: (N, 3) float64, the hit points in the solid's own coordinates, -1 .. 1.
    """

    distance: np.ndarray
    label: np.ndarray
    normal: np.ndarray
    primitive: np.ndarray
    instance: np.ndarray
    material: np.ndarray
    points: np.ndarray
    local: np.ndarray


class Street:
    """A street of P solids.

    Attributes:
        solids: their geometry.
        label: (P,) uint8, values of `Label`.
        instance: (P,) int64.
        material: (P,) int64, values of `Material`.
        colour: (P, 3) float64, sRGB 0 .. 1.
        style: (P, 4) float64, parameters of the material's texture.
        layout: plan of the road, None for a street put together by hand.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout | None = None) -> None:
        if not parts:
            raise ValueError('a street needs at least one part')
        self.layout = layout
        self.label = np.array([p.label for p in parts], np.uint8)
        self.instance = np.array([p.instance for p in parts], np.int64)
        self.material = np.array([p.material for p in parts], np.int64)
        self.colour = np.array([p.colour for p in parts], np.float64)
        self.style = np.array([p.style for p in parts], np.float64)
        self.solids = Solids(
            np.array([p.kind for p in parts], np.int64),
            np.array([p.centre for p in parts], np.float64),
            np.array([p.axes for p in parts], np.float64),
            self.material == Material.LEAVES,
        )

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """What each ray hits first.

        Args:
            origins: (N, 3) float, metres.
            directions: (N, 3) float, unit length.

        Raises:
            ValueError: if the shapes do not agree or a direction is not of unit length.
        """
        origins, directions = np.asarray(origins, np.float64), np.asarray(directions, np.float64)
        if origins.ndim != 2 or origins.shape[1] != 3 or origins.shape != directions.shape:
            raise ValueError(f'two arrays (N, 3) are needed, not {origins.shape} and {directions.shape}')
        if not (np.abs(np.einsum('ij,ij->i', directions, directions) - 1.0) < 1e-5).all():
            raise ValueError('directions must have unit length')
        distance, primitive = self.solids.cast(origins, directions)
        seen = np.flatnonzero(primitive >= 0)
        index = primitive[seen]
        points, local, normal = np.zeros((3, *origins.shape))
        points[seen] = origins[seen] + distance[seen, None] * directions[seen]
        local[seen], normal[seen] = self.solids.surface(index, points[seen])
        away = np.einsum('ij,ij->i', normal, directions) > 0
        normal[away] *= -1.0
        label = np.full(len(distance), Label.SKY, np.uint8)
        instance, material = np.full((2, len(distance)), -1, np.int64)
        label[seen], instance[seen], material[seen] = (
            self.label[index],
            self.instance[index],
            self.material[index],
        )
        return Hits(distance, label, normal, primitive, instance, material, points, local)

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether anything stands in each ray's way, (N,) bool; arguments as for `cast`, not checked."""
        return self.solids.cast(origins, directions)[1] >= 0


# How far the street is built, metres: behind the ego vehicle for LiDAR scans, ahead until haze hides it.
_BEHIND, _AHEAD = -45.0, 170.0
_HORIZON = 900.0
_KERB = 0.13
_BOTH = (-1, 1)


def make_street(seed: int) -> Street:
    """A random street with two lanes, pavements, buildings, cars, people and trees.

    The ego vehicle's place (|y| < 1.4, -4 < x < 6) is kept free.

    Args:
        seed: anything `np.random.default_rng` takes; the same seed gives the same street.
    """
    rng = np.random.default_rng(seed)
    return _Builder(rng).street()


class _Builder:
    """Collects a street's parts while one random generator decides what stands where."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[Part] = []
        self.instances = 0
        self.cars: list[tuple[float, float]] = []
        self.lane = float(rng.uniform(2.9, 3.6))
        # What each side has, -1 right and +1 left; all but the edge's y are widths in metres.
        self.parking = _sides(np.where(rng.random(2) < 0.6, rng.uniform(2.1, 2.4), 0.25))
        self.pavement = _sides(rng.uniform(2.5, 5.0, 2))
        self.setback = _sides(np.where(rng.random(2) < 0.65, 0.0, rng.uniform(1.0, 5.0, 2)))
        self.trees_along = _sides(rng.uniform(0.0, 0.9, 2))
        self.edge = {-1: -self.lane / 2 - self.parking[-1], 1: 1.5 * self.lane + self.parking[1]}
        zebras = tuple(x for x in (rng.uniform(9, 20), rng.uniform(35, 60)) if rng.random() < 0.6)
        streets = tuple(
            (side, x, x + rng.uniform(5.5, 8.0))
            for side in _BOTH
            for x in (rng.uniform(14, 40), rng.uniform(70, 110))
            if rng.random() < 0.4
        )
        lines = tuple(self.edge[s] - s * self.parking[s] for s in _BOTH if self.parking[s] > 1)
        self.layout = Layout((self.edge[-1], self.edge[1]), self.lane / 2, lines, zebras, streets)

    def street(self) -> Street:
        self.ground()
        for side in _BOTH:
            self.buildings(side)
            self.furniture(side)
            self.parked(side)
        self.skyline()
        self.traffic()
        self.people()
        return Street(self.parts, self.layout)

    def add(self, parts: list[Part], x: float = 0, y: float = 0, z: float = 0, yaw: float = 0) -> None:
        """Places one thing, as an instance of its own."""
        self.instances += 1
        self.parts.extend(place(parts, x, y, z, yaw, self.instances))

    def side_of(self, side: int) -> tuple[float, float]:
        """y of a side's kerb and of its pavement's far edge."""
        return self.edge[side], self.edge[side] + side * self.pavement[side]

    def joins(self, side: int, low: float, high: float) -> bool:
        """Whether a side street joins between two x."""
        return any(s == side and low < b and a < high for s, a, b in self.layout.side_streets)

    def ground(self) -> None:
        rng = self.rng
        grey = pick(rng, ((0.30, 0.30, 0.31), (0.38, 0.37, 0.36)), 0.02)
        asphalt = Look(Label.ROAD, Material.ASPHALT, grey)
        stone = pick(rng, ((0.58, 0.56, 0.53), (0.50, 0.50, 0.50), (0.60, 0.52, 0.46)), 0.03)
        # Style of paving: (size of a slab in metres, 0, 0, 0).
        style = (float(rng.choice([0.5, 0.8, 1.2])), 0.0, 0.0, 0.0)
        paving = Look(Label.SIDEWALK, Material.PAVING, stone, style)
        lawn = Look(Label.OTHER, Material.GRASS, pick(rng, ((0.30, 0.40, 0.16), (0.38, 0.38, 0.22))))
        self.add([asphalt.box((-_HORIZON, self.edge[-1], -1), (_HORIZON, self.edge[1], 0))])
        for side in _BOTH:
            # Pavement and lawn lie side by side with the road, cut where a side street joins.
            kerb, back = self.side_of(side)
            start = -_HORIZON
            cuts = [(low, high) for s, low, high in self.layout.side_streets if s == side]
            for low, high in [*cuts, (_HORIZON, None)]:
                for look, a, b in ((paving, kerb, back), (lawn, back, side * _HORIZON)):
                    self.add([look.box((start, min(a, b), -1), (low, max(a, b), _KERB))])
                if high is not None:
                    far = side * 300.0
                    self.add([asphalt.box((low, min(kerb, far), -1), (high, max(kerb, far), 0))])
                    start = high

    def buildings(self, side: int) -> None:
        rng = self.rng
        _, back = self.side_of(side)
        tall = rng.uniform(5.0, 17.0)
        gaps = rng.uniform(0.1, 0.6)
        x = _BEHIND + rng.uniform(-8, 0)
        while x < _AHEAD:
            width = rng.uniform(7.0, 18.0)
            if self.joins(side, x - 1.5, x + width + 1.5):
                x += 2.0
                continue
            depth, height = rng.uniform(8, 13), max(tall * rng.uniform(0.6, 1.45), 3.5)
            at = abs(back) + self.setback[side] + rng.choice([0.0, rng.uniform(0.0, 2.0)]) + depth / 2
            self.add(make.building(rng, width, depth, height, side), x + width / 2, side * at, _KERB)
            x += width
            if rng.random() < gaps:
                gap = rng.uniform(2.0, 14.0)
                if gap > 6:
                    self.tree(x + gap / 2, side * (abs(back) + rng.uniform(2.5, 8.0)))
                x += gap

    def skyline(self) -> None:
        """Far buildings and trees, seen through the gaps and down the street."""
        rng = self.rng
        for side in _BOTH:
            for x in np.arange(10, 330, 45):
                wide, tall = rng.uniform(14, 26), rng.uniform(8, 26)
                y = side * (abs(self.edge[side]) + rng.uniform(38, 70))
                self.add(make.building(rng, wide, 14, tall, side), x + rng.uniform(-10, 10), y)
                self.tree(x + rng.uniform(-20, 20), side * rng.uniform(32, 36), rng.uniform(6, 11), balls=3)
        middle = (self.edge[-1] + self.edge[1]) / 2
        if rng.random() < 0.45:
            x = rng.uniform(75, 165)
            # It faces back along the street: its front, towards -y as built on the left, is turned to -x.
            self.add(make.building(rng, 60, 12, rng.uniform(8, 20), 1), x, middle, 0.0, -np.pi / 2)
        for y in np.linspace(-45, 45, 7):
            self.tree(rng.uniform(180, 260), middle + y + rng.uniform(-5, 5), rng.uniform(9, 16), balls=4)

    def tree(self, x: float, y: float, height: float | None = None, balls: int = 6) -> None:
        height = self.rng.uniform(4.5, 9.5) if height is None else height
        self.add(make.tree(self.rng, height, balls), x, y, _KERB, self.rng.uniform(0, 6.28))

    def furniture(self, side: int) -> None:
        """Trees, lamps and bins along the kerb."""
        rng = self.rng
        kerb, _ = self.side_of(side)
        y = kerb + side * 0.6
        for x in np.arange(_BEHIND, 110, rng.uniform(7, 11)) + rng.uniform(0, 7):
            if self.joins(side, x - 1.5, x + 1.5):
                continue
            if rng.random() < self.trees_along[side]:
                # A small tree where the buildings leave little room for its crown.
                room = self.pavement[side] + self.setback[side]
                self.tree(x, y, min(rng.uniform(4.5, 9.5), max(room * 2.2, 4.5)))
            elif rng.random() < 0.35:
                self.add(make.lamp_post(rng, side), x, y, _KERB)
            elif rng.random() < 0.2:
                self.add(make.litter_bin(rng), x, y, _KERB)

    def car(self, x: float, y: float, yaw: float) -> None:
        self.cars.append((x, y))
        self.add(make.car(self.rng), x, y, 0.0, yaw + self.rng.normal(0, 0.03))

    def parked(self, side: int) -> None:
        rng = self.rng
        if self.parking[side] < 1:
            return
        taken = rng.uniform(0.35, 0.9)
        x = _BEHIND + rng.uniform(0, 5)
        while x < 95:
            x += rng.uniform(5.2, 6.4)
            blocked = self.joins(side, x - 4, x + 4) or any(abs(x - z) < 5 for z in self.layout.zebras)
            if not blocked and rng.random() < taken:
                y = self.edge[side] - side * (1.05 + rng.uniform(-0.08, 0.1))
                self.car(x, y, 0.0 if (side < 0) != (rng.random() < 0.15) else np.pi)

    def traffic(self) -> None:
        """Cars that drive: ahead and behind in the ego lane, and oncoming."""
        rng = self.rng
        for y, yaw, first in ((0.0, 0.0, rng.uniform(9, 40)), (self.lane, np.pi, rng.uniform(2, 40))):
            x = first
            while x < 130:
                if not any(abs(x - z) < 4 for z in self.layout.zebras):
                    self.car(x, y + rng.normal(0, 0.15), yaw)
                x += rng.uniform(9, 45)
        self.car(-rng.uniform(9, 25), 0.0, 0.0)
        for side, low, high in self.layout.side_streets:
            if rng.random() < 0.5:
                # It waits to turn into the street.
                y = self.edge[side] + side * rng.uniform(3, 9)
                self.car((low + high) / 2 - side * 1.4, y, -side * np.pi / 2)

    def people(self) -> None:
        rng = self.rng

        def stand(x: float, y: float, yaw: float, z: float = _KERB) -> None:
            # Hands and shoes are less than a pixel wide farther away.
            self.add(make.person(rng, fine=abs(x) < 25), x, y, z, yaw + rng.normal(0, 0.3))

        for side in _BOTH:
            kerb, back = self.side_of(side)
            for _ in range(int(rng.integers(6, 15))):
                # More of them near, where they can be seen.
                x = 4.5 + 50.0 * rng.random() ** 1.8 if rng.random() < 0.85 else rng.uniform(_BEHIND, 5)
                y = kerb + (back - kerb) * rng.uniform(0.3, 0.95)
                if self.joins(side, x - 0.5, x + 0.5):
                    continue
                yaw = rng.choice([0.0, np.pi, rng.uniform(0, 2 * np.pi)])
                for i in range(int(rng.choice([1, 2, 3], p=[0.65, 0.28, 0.07]))):
                    stand(x + rng.normal(0, 0.15), y - side * 0.6 * i, yaw)
        crossings = [x for x in self.layout.zebras if rng.random() < 0.8]
        if rng.random() < 0.5:
            crossings.append(rng.uniform(8, 30))
        for x in crossings:
            for _ in range(int(rng.integers(1, 4))):
                at_x, y = x + rng.uniform(-1.2, 1.2), rng.uniform(self.edge[-1], self.edge[1])
                if all(abs(at_x - a) > 3 or abs(y - b) > 1.5 for a, b in self.cars):
                    stand(at_x, y, rng.choice([-1, 1]) * np.pi / 2, 0.0)


def _sides(values: np.ndarray) -> dict[int, float]:
    """Right and left value, by side."""
    return dict(zip(_BOTH, values.tolist(), strict=True))
