"""Nearest hits of many rays with boxes, ellipsoids and cylinders, in numpy.

Every solid is an affine image of a unit solid (the cube |x|,|y|,|z| <= 1, the ball of radius 1, the cylinder
of radius 1 and |z| <= 1), so three intersection formulas serve leaning limbs, sheared windscreens and roofs.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import numpy as np

# A hit nearer than this is the surface the ray starts from.
NEAREST = 1e-6
# Rays culled together. Smaller blocks cull better, larger ones need fewer numpy calls.
_BLOCK = 128
# Rays worked on at once, to bound the memory.
_AT_ONCE = 1 << 17
# At this distance (metres) a change of direction moves a ray about as much as an equal change of origin.
_REACH = 20.0
# Width of a voxel of the noise that cuts holes into porous solids, metres, and the share it cuts away.
_LEAF = 0.07
_HOLES = 0.36
_NOISE_SIDE = 64
# The bits of each byte, six apart, for a Morton curve through six dimensions.
_SPREAD = np.array([sum((byte >> bit & 1) << 6 * bit for bit in range(8)) for byte in range(256)])


class Solid(IntEnum):
    """The unit solids."""

    BOX = 0
    ELLIPSOID = 1
    CYLINDER = 2


# Plain integers: reading an enum's member costs more than the comparison in the inner loop.
_BOX, _ELLIPSOID = int(Solid.BOX), int(Solid.ELLIPSOID)


@cache
def _noise_volume() -> np.ndarray:
    """A periodic volume of smooth noise, (64, 64, 64) float32, its values evenly spread over 0 .. 1."""
    white = np.random.default_rng(20230214).standard_normal((_NOISE_SIDE,) * 3)
    frequency = np.meshgrid(*[np.fft.fftfreq(_NOISE_SIDE)] * 3, indexing='ij')
    blur = np.exp(-np.sum(np.square(frequency), axis=0) * 25.0)
    smooth = np.fft.ifftn(np.fft.fftn(white) * blur).real
    ranks = np.empty(smooth.size, np.float32)
    ranks[np.argsort(smooth, axis=None)] = np.linspace(0.0, 1.0, smooth.size)
    return ranks.reshape(smooth.shape)


def noise(points: np.ndarray, cell: float) -> np.ndarray:
    """Smooth noise that is a fixed function of the position.

    Args:
        points: (N, 3) float, metres.
        cell: size of a noise voxel in metres; the pattern is smooth over about two and repeats after 64.

    Returns:
        (N,) float32, evenly spread over 0 .. 1.
    """
    x, y, z = (np.floor(points * (1.0 / cell)).astype(np.int64) & (_NOISE_SIDE - 1)).T
    return _noise_volume()[x, y, z]


class Solids:
    """An unchanging set of P solids that can be hit by rays.

    Args:
        kind: (P,) int, values of `Solid`.
        centre: (P, 3) float, metres.
        axes: (P, 3, 3) float, metres; the columns are the three half axes. They need not be orthogonal.
        porous: (P,) bool; a porous ellipsoid is a shell with noise-shaped holes (leaves).

    Raises:
        ValueError: if a solid is flat.
    """

    def __init__(self, kind: np.ndarray, centre: np.ndarray, axes: np.ndarray, porous: np.ndarray) -> None:
        if np.any(np.abs(np.linalg.det(axes)) < 1e-12):
            raise ValueError('a solid has no volume: its half axes lie in one plane')
        self.kind, self.centre, self.axes, self.porous = kind, centre, axes, porous
        self.inverse = np.linalg.inv(axes)
        # The radius of a ball around each solid. A cylinder lies in its box.
        corners = np.stack([axes @ np.array([1.0, a, b]) for a in (-1, 1) for b in (-1, 1)])
        box = np.linalg.norm(corners, axis=2).max(axis=0)
        self.radius = np.where(kind == Solid.ELLIPSOID, np.linalg.norm(axes, ord=2, axis=(1, 2)), box)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest solid along each ray.

        Rays are put into blocks of neighbours, a cone around each block tells which solids it may hit, and
        only those pairs are intersected, near solids first so that what they hide is left out too.

        Args:
            origins: (N, 3) float, metres.
            directions: (N, 3) float, unit length.

        Returns:
            distance (N,) float64 in metres, inf where nothing is hit, and index (N,) int64 of the solid,
            -1 where nothing is hit.
        """
        count = len(origins)
        distance, index = np.full(count, np.inf), np.full(count, -1, np.int64)
        order = _order(origins, directions) if count else np.empty(0, np.int64)
        for start in range(0, count, _AT_ONCE):
            piece = order[start : start + _AT_ONCE]
            padded = np.concatenate([piece, np.repeat(piece[-1:], -len(piece) % _BLOCK)])
            o, d = _blocks(origins, padded), _blocks(directions, padded)
            nearest, owner = self._nearest(o, d, len(padded) // _BLOCK)
            distance[piece], index[piece] = nearest.ravel()[: len(piece)], owner.ravel()[: len(piece)]
        return distance, index

    def _nearest(self, o: np.ndarray, d: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance and index of the nearest solid for rays from `_blocks`; both (blocks, _BLOCK)."""
        near_limit = self._near_limits(o, d)
        best = np.full((blocks, _BLOCK), np.inf)
        index = np.full((blocks, _BLOCK), -1, np.int64)
        farthest = np.full(blocks, np.inf)
        # A ray that misses or runs along a face gives nan or inf on the way: neither compares as a hit.
        with np.errstate(invalid='ignore', over='ignore'):
            for p in np.argsort(near_limit.min(axis=1), kind='stable').tolist():
                rows = (near_limit[p] < farthest).nonzero()[0]
                if not len(rows):
                    continue
                some = [(v[:, rows] if v.shape[1] > 1 else v).reshape(3, -1) for v in (o, d)]
                t = self._hit(p, *some)
                t = t.reshape(-1, _BLOCK) if len(t) > 1 else t
                old = best[rows]
                nearer = t < old
                if nearer.any():
                    best[rows] = t = np.minimum(t, old)
                    index[rows] = np.where(nearer, p, index[rows])
                    farthest[rows] = t.max(axis=1)
        return best, index

    def surface(self, index: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where on its solid each surface point lies.

        Args:
            index: (N,) int, the solid of each point.
            points: (N, 3) float on the surface of that solid, metres.

        Returns:
            local (N, 3): the point in the unit solid's coordinates, -1 .. 1; normal (N, 3): outward, unit.
        """
        inverse = self.inverse[index]
        local = np.einsum('nij,nj->ni', inverse, points - self.centre[index])
        kind = self.kind[index]
        unit = local.copy()
        # A cylinder's normal is its cap's where the point is farther out along the axis than across it.
        on_cap = np.abs(local[:, 2]) > np.hypot(local[:, 0], local[:, 1])
        round_side = (kind == Solid.CYLINDER) & ~on_cap
        unit[round_side, 2] = 0.0
        flat = np.flatnonzero((kind == Solid.BOX) | ((kind == Solid.CYLINDER) & on_cap))
        axis = np.where(kind[flat] == Solid.BOX, np.abs(local[flat]).argmax(axis=1), 2)
        unit[flat] = 0.0
        unit[flat, axis] = np.sign(local[flat, axis])
        normal = np.einsum('nij,ni->nj', inverse, unit)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        return local, normal

    def _hit(self, p: int, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Distance along rays (3, n) to solid p, inf where it is missed, (n,). o or d may be (3, 1)."""
        inverse = self.inverse[p]
        # einsum, not matmul: no threads, so a ray's result does not depend on how many there are.
        local_o = np.einsum('ij,jn->in', inverse, o - self.centre[p][:, None])
        near, far = interval(self.kind[p], local_o, np.einsum('ij,jn->in', inverse, d))
        ahead = (near <= far) & (far > NEAREST)
        outside = near > NEAREST
        if not self.porous[p]:
            # From inside, the surface ahead is the far one.
            return np.where(ahead, np.where(outside, near, far), np.inf)
        hit = np.full(len(far), np.inf)
        for t, try_ in ((near, ahead & outside), (far, ahead)):
            at = (try_ & np.isinf(hit)).nonzero()[0]
            point = [(v[:, at] if v.shape[1] > 1 else v) for v in (o, d)]
            solid = noise((point[0] + t[at] * point[1]).T, _LEAF) >= _HOLES
            hit[at[solid]] = t[at[solid]]
        return hit

    def _near_limits(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """A bound below the distance from blocks of rays (3, B, n) to each solid, inf for a miss, (P, B)."""
        blocks = max(o.shape[1], d.shape[1])
        middle = np.broadcast_to((o.min(axis=2) + o.max(axis=2)) / 2, (3, blocks))
        spread = np.sqrt(np.square(o - middle[:, :, None]).sum(axis=0).max(axis=1))
        mean = np.broadcast_to(d.mean(axis=2), (3, blocks))
        mean = mean / np.maximum(np.sqrt(np.square(mean).sum(axis=0)), 1e-12)
        cone = np.clip(np.einsum('ib,ibn->bn', mean, d).min(axis=1), -1.0, 1.0)
        # A ray from elsewhere in the block hits a ball just if the ray moved to the middle hits the ball
        # moved as much, which lies in one of radius + spread. The slack is far above the rounding.
        reach = (self.radius[:, None] + spread) * (1 + 1e-6) + 1e-3
        along = np.einsum('pi,ib->pb', self.centre, mean) - (middle * mean).sum(axis=0)
        away = np.einsum('pi,ib->pb', self.centre, -2.0 * middle)
        away += np.square(self.centre).sum(axis=1)[:, None] + np.square(middle).sum(axis=0)
        across = np.sqrt(np.maximum(away - along * along, 0.0))
        away = np.sqrt(np.maximum(away, 0.0))
        # The ball reaches the cone if its middle is inside, or nearer to the cone's side than its radius.
        sine = np.sqrt(1.0 - cone * cone)
        may_hit = (across * cone - along * sine <= reach) & (along * cone + across * sine > 0)
        may_hit |= (away <= reach) | (cone <= 0)
        return np.where(may_hit, np.maximum(away - reach, 0.0), np.inf)


def interval(kind: int, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays are inside a unit solid.

    Args:
        kind: one of `Solid`.
        o, d: (3, n) float, origins and directions in the solid's own coordinates.

    Returns:
        near, far (n,): ray parameters; near > far, or nan, where the solid is missed.
    """
    if kind == _BOX:
        return _slabs(o, d)
    across_o, across_d = (o, d) if kind == _ELLIPSOID else (o[:2], d[:2])
    # The tiny number stands for zero where a ray runs along a cylinder: no 0 / 0.
    a = (across_d * across_d).sum(axis=0) + 1e-300
    b = (across_o * across_d).sum(axis=0)
    c = (across_o * across_o).sum(axis=0) - 1.0
    root = np.sqrt(b * b - a * c)
    near, far = (-b - root) / a, (root - b) / a
    if kind == _ELLIPSOID:
        return near, far
    bottom, top = _slabs(o[2:], d[2:])
    return np.maximum(near, bottom), np.minimum(far, top)


def _slabs(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays (k, n) are within -1 .. 1 in every one of the k coordinates."""
    # As above: zero is made tiny, so that a ray along a face gives huge numbers of the right sign, not nan.
    slope = 1.0 / (d + 1e-300)
    middle = -o * slope
    half = np.abs(slope)
    return (middle - half).max(axis=0), (middle + half).min(axis=0)


def _blocks(vectors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) in this order, cut into blocks (3, blocks, _BLOCK).

    What all have in common (a camera's place, the sun's direction) is kept once, (3, 1, 1), and broadcast.
    """
    if (vectors == vectors[0]).all():
        return vectors[:1].T[:, :, None]
    return np.ascontiguousarray(vectors[order].T).reshape(3, -1, _BLOCK)


def _order(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """An order of rays in which neighbours are close in origin and direction (a Morton curve), (N,) int64."""
    features = np.concatenate([directions * _REACH, origins], axis=1)
    low = features.min(axis=0)
    cell = max((features.max(axis=0) - low).max() / 255.0, 1e-9)
    grid = ((features - low) / cell).astype(np.uint8)
    key = np.zeros(len(grid), np.int64)
    for dimension, column in enumerate(grid.T):
        if column.any():
            key |= _SPREAD[column] << dimension
    return np.argsort(key, kind='stable')
