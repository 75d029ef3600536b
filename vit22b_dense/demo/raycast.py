"""Nearest hits of many rays with affine images of a cube, a ball and a cylinder, in numpy."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from .parts import BOX, CYLINDER, ELLIPSOID, Label, Material, Part

_NEAREST = 1e-6  # metres: a hit nearer than this is the surface the ray starts from
_BLOCK = 128  # rays culled together: smaller blocks cull better, larger ones need fewer numpy calls
_BLOCKS_AT_ONCE = 1024  # to bound the memory
_REACH = 20.0  # metres at which a change of direction moves a ray about as much as an equal change of origin
# Width of a voxel of the noise that cuts holes into leaves, metres, and the share it cuts away.
_LEAF, _HOLES = 0.07, 0.36
# The bits of each byte, six apart, for a Morton curve through six dimensions.
_SPREAD = np.array([sum((byte >> bit & 1) << 6 * bit for bit in range(8)) for byte in range(256)])


@cache
def _noise_volume() -> np.ndarray:
    white = np.random.default_rng(20230214).standard_normal((64, 64, 64))
    frequency = np.meshgrid(*[np.fft.fftfreq(64)] * 3, indexing='ij')
    blur = np.exp(-np.sum(np.square(frequency), axis=0) * 25.0)
    smooth = np.fft.ifftn(np.fft.fftn(white) * blur).real
    ranks = np.argsort(np.argsort(smooth, axis=None)).reshape(smooth.shape)
    return np.linspace(0.0, 1.0, smooth.size, dtype=np.float32)[ranks]


def noise(points: np.ndarray, cell: float) -> np.ndarray:
    """Noise at points (N, 3): (N,) float32, evenly spread over 0 .. 1, smooth over two cells, repeated after 64."""
    x, y, z = (np.floor(points * (1.0 / cell)).astype(np.int64) & 63).T
    return _noise_volume()[x, y, z]


class Layout(NamedTuple):
    """Plan of the road, for what is painted on it. Metres."""

    road: Sequence[float]  # y of the road's right and left edges
    divider: float  # y of the dashed line between the two lanes
    parking: Sequence[float]  # y of the lines that part off the parking strips, one a strip
    zebras: Sequence[float]  # x of the middle of each zebra crossing


class Hits(NamedTuple):
    """What N rays hit. For a miss: distance inf, label SKY, primitive -1, and 0 for the rest."""

    distance: np.ndarray  # (N,) float64, metres along the ray
    label: np.ndarray  # (N,) uint8, values of `Label`
    primitive: np.ndarray  # (N,) int64, index into the street's parts
    points: np.ndarray  # (N, 3) float64, the hit points, metres
    local: np.ndarray  # (N, 3) float64, the hit points in the unit solid's coordinates, -1 .. 1
    normal: np.ndarray  # (N, 3) float64, unit, on the side the ray comes from


class Street:
    """P parts that rays can be cast at.

    Attributes:
        kind, centre, axes, material, colour, instance: (P, ...), the parts' own; style: filled up to (P, 4).
        label: (P + 1,) uint8; the last is SKY, so that a miss (index -1) has its label too.
        inverse, half: (P, 3, 3) and (P, 3), the inverses of the axes and their lengths.
        layout: plan of the road; None for a street without asphalt and paving.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout | None = None) -> None:
        label, material, colour, style, kind, centre, axes, instance = zip(*parts, strict=True)
        self.label, self.layout = np.array([*label, Label.SKY], np.uint8), layout
        self.style = np.array([(*some, 0, 0, 0, 0)[:4] for some in style], np.float64)
        self.material, self.colour, self.instance = np.array(material), np.array(colour), np.array(instance)
        self.kind, self.centre, self.axes = np.array(kind), np.array(centre), np.array(axes)
        self._porous = self.material == Material.LEAVES
        self.inverse, self.half = np.linalg.inv(self.axes), np.linalg.norm(self.axes, axis=1)
        # The radius of a ball around each solid. A cylinder lies in its box.
        corners = self.axes @ np.array([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1]])
        box = np.linalg.norm(corners, axis=1).max(axis=1)
        self._radius = np.where(self.kind == ELLIPSOID, np.linalg.norm(self.axes, ord=2, axis=(1, 2)), box)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """What each ray hits first; origins (N, 3) in metres, directions (N, 3) of unit length.

        Raises:
            ValueError: if the shapes do not agree or a direction is not of unit length.
        """
        origins, directions = np.asarray(origins, np.float64), np.asarray(directions, np.float64)
        if origins.ndim != 2 or origins.shape[1] != 3 or origins.shape != directions.shape:
            raise ValueError(f'two arrays (N, 3) are needed, not {origins.shape} and {directions.shape}')
        if not (np.abs(np.einsum('ij,ij->i', directions, directions) - 1.0) < 1e-5).all():
            raise ValueError('directions must have unit length')
        distance, primitive = self.nearest(origins, directions)
        seen = np.flatnonzero(primitive >= 0)
        points, local, normal = np.zeros((3, *origins.shape))
        points[seen] = origins[seen] + distance[seen, None] * directions[seen]
        inverse, kind = self.inverse[primitive[seen]], self.kind[primitive[seen]]
        at = np.einsum('nij,nj->ni', inverse, points[seen] - self.centre[primitive[seen]])
        # A cylinder's normal is its cap's where the point is farther out along the axis than across it.
        on_cap = (kind == CYLINDER) & (np.abs(at[:, 2]) > np.hypot(at[:, 0], at[:, 1]))
        flat = np.flatnonzero((kind == BOX) | on_cap)
        axis = np.where(on_cap[flat], 2, np.abs(at[flat]).argmax(axis=1))
        unit = at.copy()
        unit[kind == CYLINDER, 2] = 0.0
        unit[flat] = np.sign(at[flat]) * np.eye(3)[axis]
        outward = np.einsum('nij,ni->nj', inverse, unit)
        outward[np.einsum('ij,ij->i', outward, directions[seen]) > 0] *= -1.0
        local[seen], normal[seen] = at, outward / np.linalg.norm(outward, axis=1, keepdims=True)
        return Hits(distance, self.label[primitive], primitive, points, local, normal)

    # A ray that misses or runs along a face gives nan or inf on the way: neither compares as a hit.
    @np.errstate(invalid='ignore', over='ignore')
    def nearest(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N,) and index (N,) of what each ray hits first, as in `cast`, whose checks it does without.

        Rays are put into blocks of neighbours, a cone around each block tells which solids it may hit, and
        only those pairs are intersected, near solids first so that what they hide is left out too.
        """
        distance, index = np.full(len(origins), np.inf), np.full(len(origins), -1)
        order = _morton_order(origins, directions)
        rays = np.pad(order, (0, -len(order) % _BLOCK), 'edge').reshape(-1, _BLOCK)
        for start in range(0, len(rays), _BLOCKS_AT_ONCE):
            blocks = rays[start : start + _BLOCKS_AT_ONCE]
            o, d = _in_blocks(origins, blocks), _in_blocks(directions, blocks)
            near_limit = self._near_limits(o, d)
            farthest = np.full(near_limit.shape[1], np.inf)
            best, owner = np.full((len(farthest), _BLOCK), np.inf), np.full((len(farthest), _BLOCK), -1)
            for p in np.argsort(near_limit.min(axis=1), kind='stable').tolist():
                rows = (near_limit[p] < farthest).nonzero()[0]
                if not len(rows):
                    continue
                t = self._hit(p, *(_take(v, rows).reshape(3, -1) for v in (o, d)))
                t, old = t.reshape(-1, min(_BLOCK, len(t))), best[rows]
                nearer = t < old
                if nearer.any():
                    best[rows] = t = np.minimum(t, old)
                    owner[rows] = np.where(nearer, p, owner[rows])
                    farthest[rows] = t.max(axis=1)
            distance[blocks], index[blocks] = best, owner
        return distance, index

    def _near_limits(self, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """A bound below the distance from blocks of rays (3, B, n) to each solid, inf for a miss, (P, B)."""
        middle, mean = np.broadcast_arrays((o.min(axis=2) + o.max(axis=2)) / 2, d.mean(axis=2))
        spread = np.sqrt(np.square(o - middle[:, :, None]).sum(axis=0).max(axis=1))
        mean = mean / np.maximum(np.sqrt(np.square(mean).sum(axis=0)), 1e-12)
        cone = np.clip(np.einsum('ib,ibn->bn', mean, d).min(axis=1), -1.0, 1.0)
        # A ray from elsewhere in the block hits a ball just if the ray moved to the middle hits the ball
        # moved as much, which lies in one of radius + spread. The slack is far above the rounding.
        reach = (self._radius[:, None] + spread) * (1 + 1e-6) + 1e-3
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

    def _hit(self, p: int, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Distance along rays (3, n) to solid p, inf where it is missed, (n,). o or d may be (3, 1)."""
        inverse = self.inverse[p]
        # einsum, not matmul: no threads, so a ray's result does not depend on how many there are.
        local_o = np.einsum('ij,jn->in', inverse, o - self.centre[p][:, None])
        near, far = _interval(self.kind[p], local_o, np.einsum('ij,jn->in', inverse, d))
        ahead = (near <= far) & (far > _NEAREST)
        outside = near > _NEAREST
        if not self._porous[p]:
            # From inside, the surface ahead is the far one.
            return np.where(ahead, np.where(outside, near, far), np.inf)
        hit = np.full(len(far), np.inf)
        for t, possible in ((near, ahead & outside), (far, ahead)):
            at = (possible & np.isinf(hit)).nonzero()[0]
            solid = at[noise((_take(o, at) + t[at] * _take(d, at)).T, _LEAF) >= _HOLES]
            hit[solid] = t[solid]
        return hit


def _interval(kind: int, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters (n,) between which rays (3, n) are inside a unit solid; near > far, or nan, for a miss."""
    # The tiny number stands for zero where a ray runs along a side: huge numbers of the right sign, no 0 / 0.
    if kind != ELLIPSOID:
        slope = 1.0 / (d[kind:] + 1e-300)
        middle, half = -o[kind:] * slope, np.abs(slope)
        bottom, top = (middle - half).max(axis=0), (middle + half).min(axis=0)
        if kind == BOX:
            return bottom, top
        o, d = o[:kind], d[:kind]
    a = (d * d).sum(axis=0) + 1e-300
    b = (o * d).sum(axis=0)
    c = (o * o).sum(axis=0) - 1.0
    root = np.sqrt(b * b - a * c)
    near, far = (-b - root) / a, (root - b) / a
    return (near, far) if kind == ELLIPSOID else (np.maximum(near, bottom), np.minimum(far, top))


def _in_blocks(vectors: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) of the rays in blocks (B, n), as (3, B, n); where all are equal, one is enough: (3, 1, 1)."""
    if (vectors == vectors[0]).all():
        return vectors[:1].T[:, :, None]
    return np.ascontiguousarray(vectors[blocks].transpose(2, 0, 1))


def _take(vectors: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Columns of vectors; what all have in common stays as it is."""
    return vectors[:, at] if vectors.shape[1] > 1 else vectors


def _morton_order(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """An order of rays in which neighbours are close in origin and direction, (N,) int64."""
    features = np.concatenate([directions * _REACH, origins], axis=1)
    low = features.min(axis=0, initial=np.inf)
    cell = max((features.max(axis=0, initial=-np.inf) - low).max() / 255.0, 1e-9)
    grid = ((features - low) / cell).astype(np.uint8)
    return np.argsort(np.bitwise_or.reduce(_SPREAD[grid] << np.arange(6), axis=1), kind='stable')
