"""The toy street's geometry: what stands where, without cameras, light or files.

Frame: the ego vehicle's, metres, x forward, y left, z up, the road surface at z = 0. The ego vehicle drives
in the right-hand lane, so y = 0 is the middle of that lane.
"""

from typing import NamedTuple

import numpy as np

from . import parts as make
from .parts import Label, Material, Part, pick, place
from .raycast import Layout, Street

# How far the street is built, metres: behind the ego vehicle for LiDAR scans, ahead until haze hides it.
_BEHIND, _AHEAD, _HORIZON = -45.0, 170.0, 900.0
_KERB = 0.13  # height of the pavements


def make_street(seed: int) -> Street:
    """A random street with two lanes, pavements, buildings, cars, people and trees; the same seed gives the same.

    The ego vehicle's place (|y| < 1.4, -4 < x < 6) is kept free.
    """
    return _Builder(np.random.default_rng(seed)).street()


class _Side(NamedTuple):
    """One side of the road, metres."""

    sign: int  # -1 right, +1 left
    kerb: float  # y of the pavement's edges
    back: float
    parking: float  # width of the strip
    setback: float  # of the buildings, from the pavement
    room: float  # from the kerb to the buildings
    trees: float  # how likely a place along the kerb has one
    streets: list[tuple[float, float]]  # x between which a side street joins

    def joins(self, low: float, high: float) -> bool:
        """Whether a side street joins between two x."""
        return any(low < b and a < high for a, b in self.streets)


class _Builder:
    """Collects a street's parts while one random generator decides what stands where."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.parts, self.instances, self.cars = rng, [], 0, []
        self.lane = rng.uniform(2.9, 3.6)
        parking = np.where(rng.random(2) < 0.6, rng.uniform(2.1, 2.4), 0.25)
        pavement = rng.uniform(2.5, 5.0, 2)
        setback = np.where(rng.random(2) < 0.65, 0.0, rng.uniform(1.0, 5.0, 2))
        trees = rng.uniform(0.0, 0.9, 2)
        self.zebras = [x for x in (rng.uniform(9, 20), rng.uniform(35, 60)) if rng.random() < 0.6]
        self.sides = []
        for i, (sign, edge) in enumerate(((-1, -0.5 * self.lane), (1, 1.5 * self.lane))):
            ends = rng.uniform(14, 40), rng.uniform(70, 110)
            streets = [(x, x + rng.uniform(5.5, 8.0)) for x in ends if rng.random() < 0.4]
            kerb = edge + sign * parking[i]
            back, room = kerb + sign * pavement[i], pavement[i] + setback[i]
            self.sides.append(_Side(sign, kerb, back, parking[i], setback[i], room, trees[i], streets))

    def street(self) -> Street:
        self.ground()
        for side in self.sides:
            self.buildings(side)
            self.furniture(side)
            self.parked(side)
        self.skyline()
        self.traffic()
        self.people()
        lines = [side.kerb - side.sign * side.parking for side in self.sides if side.parking > 1]
        return Street(self.parts, Layout([side.kerb for side in self.sides], self.lane / 2, lines, self.zebras))

    def add(self, parts: list[Part], x: float = 0, y: float = 0, z: float = 0, yaw: float = 0) -> None:
        """Places one thing, as an instance of its own."""
        self.instances += 1
        self.parts += place(parts, x, y, z, yaw, self.instances)

    def ground(self) -> None:
        asphalt = Part(Label.ROAD, Material.ASPHALT, pick(self.rng, 'asphalt', 0.02))
        stone = pick(self.rng, 'stone', 0.03)
        # Style of paving: size of a slab in metres.
        paving = Part(Label.SIDEWALK, Material.PAVING, stone, (self.rng.choice([0.5, 0.8, 1.2]),))
        lawn = Part(Label.OTHER, Material.GRASS, pick(self.rng, 'lawn'))
        self.add([asphalt.box((-_HORIZON, self.sides[0].kerb, -1), (_HORIZON, self.sides[1].kerb, 0))])
        for side in self.sides:
            # Pavement and lawn lie side by side with the road, cut where a side street joins.
            starts = [-_HORIZON, *(high for _, high in side.streets)]
            for start, (low, high) in zip(starts, [*side.streets, (_HORIZON, _HORIZON)], strict=True):
                self.add([paving.box((start, side.kerb, -1), (low, side.back, _KERB))])
                self.add([lawn.box((start, side.back, -1), (low, side.sign * _HORIZON, _KERB))])
                if low < high:
                    self.add([asphalt.box((low, side.kerb, -1), (high, side.sign * 300.0, 0))])

    def buildings(self, side: _Side) -> None:
        rng = self.rng
        tall, gaps = rng.uniform(5.0, 17.0), rng.uniform(0.1, 0.6)
        x = _BEHIND + rng.uniform(-8, 0)
        while x < _AHEAD:
            width = rng.uniform(7.0, 18.0)
            if side.joins(x - 1.5, x + width + 1.5):
                x += 2.0
                continue
            depth, height = rng.uniform(8, 13), max(tall * rng.uniform(0.6, 1.45), 3.5)
            out = abs(side.back) + side.setback + rng.choice([0.0, rng.uniform(0.0, 2.0)]) + depth / 2
            self.add(make.building(rng, width, depth, height, side.sign), x + width / 2, side.sign * out, _KERB)
            x += width
            if rng.random() < gaps:
                gap = rng.uniform(2.0, 14.0)
                if gap > 6:
                    y = side.sign * (abs(side.back) + rng.uniform(2.5, 8.0))
                    self.tree(x + gap / 2, y, rng.uniform(4.5, 9.5))
                x += gap

    def skyline(self) -> None:
        """Far buildings and trees, seen through the gaps and down the street."""
        rng = self.rng
        for side in self.sides:
            for x in np.arange(10, 330, 45):
                wide, tall = rng.uniform(14, 26), rng.uniform(8, 26)
                y = side.sign * (abs(side.kerb) + rng.uniform(38, 70))
                self.add(make.building(rng, wide, 14, tall, side.sign), x + rng.uniform(-10, 10), y)
                self.tree(x + rng.uniform(-20, 20), side.sign * rng.uniform(32, 36), rng.uniform(6, 11), balls=3)
        middle = (self.sides[0].kerb + self.sides[1].kerb) / 2
        if rng.random() < 0.45:
            x = rng.uniform(75, 165)
            # It faces back along the street: its front, towards -y as built on the left, is turned to -x.
            self.add(make.building(rng, 60, 12, rng.uniform(8, 20), 1), x, middle, 0.0, -np.pi / 2)
        for y in np.linspace(-45, 45, 7):
            self.tree(rng.uniform(180, 260), middle + y + rng.uniform(-5, 5), rng.uniform(9, 16), balls=4)

    def tree(self, x: float, y: float, height: float, balls: int = 6) -> None:
        self.add(make.tree(self.rng, height, balls), x, y, _KERB, self.rng.uniform(0, 6.28))

    def furniture(self, side: _Side) -> None:
        """Trees, lamps and bins along the kerb; small trees where the buildings leave their crowns little room."""
        rng = self.rng
        y = side.kerb + side.sign * 0.6
        for x in np.arange(_BEHIND, 110, rng.uniform(7, 11)) + rng.uniform(0, 7):
            if side.joins(x - 1.5, x + 1.5):
                continue
            if rng.random() < side.trees:
                self.tree(x, y, min(rng.uniform(4.5, 9.5), max(side.room * 2.2, 4.5)))
            elif rng.random() < 0.35:
                self.add(make.lamp_post(rng, side.sign), x, y, _KERB)
            elif rng.random() < 0.2:
                look = Part(Label.OTHER, Material.PLAIN, pick(rng, 'bin'))
                self.add([look.rod((0, 0, 0), (0, 0, rng.uniform(0.8, 1.1)), rng.uniform(0.2, 0.3))], x, y, _KERB)

    def car(self, x: float, y: float, yaw: float) -> None:
        self.cars.append((x, y))
        self.add(make.car(self.rng), x, y, 0.0, yaw + self.rng.normal(0, 0.03))

    def on_zebra(self, x: float, margin: float) -> bool:
        return any(abs(x - zebra) < margin for zebra in self.zebras)

    def parked(self, side: _Side) -> None:
        rng = self.rng
        if side.parking < 1:
            return
        taken, x = rng.uniform(0.35, 0.9), _BEHIND + rng.uniform(0, 5)
        while x < 95:
            x += rng.uniform(5.2, 6.4)
            if not (side.joins(x - 4, x + 4) or self.on_zebra(x, 5)) and rng.random() < taken:
                y = side.kerb - side.sign * (1.05 + rng.uniform(-0.08, 0.1))
                self.car(x, y, 0.0 if (side.sign < 0) != (rng.random() < 0.15) else np.pi)

    def traffic(self) -> None:
        """Cars that drive, ahead and behind in the ego lane, and oncoming; others wait to turn into the street."""
        rng = self.rng
        for y, yaw, x in ((0.0, 0.0, rng.uniform(9, 40)), (self.lane, np.pi, rng.uniform(2, 40))):
            while x < 130:
                if not self.on_zebra(x, 4):
                    self.car(x, y + rng.normal(0, 0.15), yaw)
                x += rng.uniform(9, 45)
        self.car(-rng.uniform(9, 25), 0.0, 0.0)
        for side in self.sides:
            for low, high in side.streets:
                if rng.random() < 0.5:
                    y = side.kerb + side.sign * rng.uniform(3, 9)
                    self.car((low + high) / 2 - side.sign * 1.4, y, -side.sign * np.pi / 2)

    def person(self, x: float, y: float, z: float, yaw: float) -> None:
        # Hands and shoes are less than a pixel wide farther away.
        self.add(make.person(self.rng, fine=abs(x) < 25), x, y, z, yaw + self.rng.normal(0, 0.3))

    def people(self) -> None:
        rng = self.rng
        for side in self.sides:
            for _ in range(rng.integers(6, 15)):
                # More of them near, where they can be seen.
                x = 4.5 + 50.0 * rng.random() ** 1.8 if rng.random() < 0.85 else rng.uniform(_BEHIND, 5)
                y = side.kerb + (side.back - side.kerb) * rng.uniform(0.3, 0.95)
                if side.joins(x - 0.5, x + 0.5):
                    continue
                yaw = rng.choice([0.0, np.pi, rng.uniform(0, 2 * np.pi)])
                for i in range(rng.choice([1, 2, 3], p=[0.65, 0.28, 0.07])):
                    self.person(x + rng.normal(0, 0.15), y - side.sign * 0.6 * i, _KERB, yaw)
        crossings = [x for x in self.zebras if rng.random() < 0.8]
        if rng.random() < 0.5:
            crossings.append(rng.uniform(8, 30))
        for crossing in crossings:
            for _ in range(rng.integers(1, 4)):
                x, y = crossing + rng.uniform(-1.2, 1.2), rng.uniform(self.sides[0].kerb, self.sides[1].kerb)
                if all(abs(x - a) > 3 or abs(y - b) > 1.5 for a, b in self.cars):
                    self.person(x, y, 0.0, rng.choice([-1, 1]) * np.pi / 2)
