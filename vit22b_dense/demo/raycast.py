"""Nearest hits of many rays with affine images of a cube, a ball and a cylinder, in numpy."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from .parts import BOX, CYLINDER, ELLIPSOID, Label, Material, Part

_NEAREST = 1e-6  # metres: a hit nearer than this is the surface the ray starts from
_BLOCK = 64  # rays culled together: smaller blocks cull better, larger ones need less of it
_GROUP = 16  # blocks culled together before each is
_BLOCKS_AT_ONCE = 2048  # to bound the memory
# How many pairs of a block and a solid are worked on together: few, to stay in the processor's cache.
_PAIRS_AT_ONCE, _BOUNDS_AT_ONCE = 128, 4096
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
        # Upright boxes around the things that the parts belong to, to cull the parts of each together.
        _, self._thing = np.unique(self.instance, return_inverse=True)
        reach = np.abs(self.axes).sum(axis=2)
        low, high = np.full((2, self._thing.max() + 1, 3), [[[np.inf]], [[-np.inf]]])
        np.minimum.at(low, self._thing, self.centre - reach)
        np.maximum.at(high, self._thing, self.centre + reach)
        boxes = np.eye(3) / (high - low)[:, None] * 2
        # For many solids at once, the boxes behind the parts: the coordinate first.
        self._rows = np.concatenate([self.inverse, boxes]).transpose(1, 2, 0).copy()
        self._centre = np.concatenate([self.centre, (low + high) / 2]).T.copy()

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

    def nearest(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N,) and index (N,) of what each ray hits first, as in `cast`, whose checks it does without."""
        return self._trace(origins, directions, False)

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether each ray hits anything, (N,) bool; as `nearest`, but faster."""
        return self._trace(origins, directions, True)[1] >= 0

    def _trace(self, origins: np.ndarray, directions: np.ndarray, any_hit: bool) -> tuple[np.ndarray, np.ndarray]:
        """What each ray hits first, or anything that it hits at a distance of 0.

        Rays are put into blocks of neighbours, bounds of each block tell which solids it may hit, and only those
        pairs are intersected, a block's nearest solids first so that what they hide is left out too.
        """
        distance, index = np.full(len(origins), np.inf), np.full(len(origins), -1)
        order = _morton_order(origins, directions)
        rays = np.pad(order, (0, -len(order) % _BLOCK), 'edge').reshape(-1, _BLOCK)
        for start in range(0, len(rays), _BLOCKS_AT_ONCE):
            blocks = rays[start : start + _BLOCKS_AT_ONCE]
            o, d = _in_blocks(origins, blocks), _in_blocks(directions, blocks)
            distance[blocks], index[blocks] = self._trace_blocks(o, d, len(blocks), any_hit)
        return distance, index

    # A ray that misses or runs along a face gives nan or inf on the way: neither compares as a hit.
    @np.errstate(invalid='ignore', over='ignore', divide='ignore')
    def _trace_blocks(self, o: np.ndarray, d: np.ndarray, count: int, any_hit: bool) -> tuple[np.ndarray, np.ndarray]:
        """As `_trace`, for rays (3, count, n), or (3, 1, 1) where all are equal; both results are (count, n)."""
        best, owner = np.full((count, _BLOCK), np.inf), np.full((count, _BLOCK), -1)
        farthest = np.full(count, np.inf)
        part, block, near = self._candidates(o, d, count)
        turn = np.searchsorted(block, np.arange(count + 1))
        turn, end = turn[:-1].copy(), turn[1:]
        rows = np.arange(count)
        while True:
            rows = rows[turn[rows] < end[rows]]
            rows = rows[near[turn[rows]] < farthest[rows]]
            if not len(rows):
                return best, owner
            # Of few blocks, several solids at once.
            each = max(1, _PAIRS_AT_ONCE // len(rows))
            pair = np.minimum(turn[rows, None] + np.arange(each), end[rows, None] - 1)
            row, solid = np.repeat(rows, each), part[pair].ravel()
            times = np.empty((len(row), _BLOCK))
            for kind in (BOX, CYLINDER, ELLIPSOID):
                those = (self.kind[solid] == kind).nonzero()[0]
                for at in (those[i : i + _PAIRS_AT_ONCE] for i in range(0, len(those), _PAIRS_AT_ONCE)):
                    times[at] = self._hit(kind, solid[at], _take(o, row[at]), _take(d, row[at]))
            if any_hit:
                times[times < np.inf] = 0.0
            solid = solid[:, None]
            if each > 1:
                times, first = times.reshape(-1, each, _BLOCK), times.reshape(-1, each, _BLOCK).argmin(axis=1)
                times = np.take_along_axis(times, first[:, None], axis=1)[:, 0]
                solid = np.take_along_axis(solid.reshape(-1, each), first, axis=1)
            old = best[rows]
            best[rows] = new = np.minimum(times, old)
            owner[rows] = np.where(times < old, solid, owner[rows])
            farthest[rows] = new.max(axis=1)
            turn[rows] += each

    def _candidates(self, o: np.ndarray, d: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a solid and a block of rays that may hit it, and a bound below the distance, each (K,).

        They are sorted by the block, and by the bound within it.
        """
        # Boxes around origins and directions: low, high (2, 6, count); then around groups of blocks.
        bounds = np.stack([np.concatenate([np.broadcast_to(f(v, axis=2), (3, count)) for v in (o, d)])
                           for f in (np.min, np.max)])  # fmt: skip
        starts = np.arange(0, count, _GROUP)
        groups = np.stack(
            [np.minimum.reduceat(bounds[0], starts, axis=1), np.maximum.reduceat(bounds[1], starts, axis=1)]
        )
        parts, things = len(self.kind), self._thing.max() + 1
        thing, group = (v.ravel() for v in np.indices((things, len(starts))))
        met = (self._entry(parts + thing, groups, group) < np.inf).reshape(things, -1)
        part, group = met[self._thing].nonzero()
        met = self._entry(part, groups, group) < np.inf
        part, block = np.repeat(part[met], _GROUP), (group[met, None] * _GROUP + np.arange(_GROUP)).ravel()
        part, block = part[block < count], block[block < count]
        near = self._entry(part, bounds, block)
        met = (near < np.inf).nonzero()[0]
        met = met[np.lexsort((near[met], block[met]))]
        return part[met], block[met], near[met]

    def _entry(self, p: np.ndarray, bounds: np.ndarray, at: np.ndarray) -> np.ndarray:
        """A bound below the distance at which rays between bounds[..., at] enter solids p, inf for a miss, (K,).

        Solids are the parts, and behind them the boxes around things.

        The bounds (2, 6, B) are the lowest and highest coordinates of origins and directions; p and at are (K,).
        """
        entries = np.empty(len(p))
        low, high = bounds
        middle, half = (low + high) / 2, (high - low) / 2
        for some in (slice(i, i + _BOUNDS_AT_ONCE) for i in range(0, len(p), _BOUNDS_AT_ONCE)):
            solid, (x, y, z, u, v, w), (a, b, c, d, e, f) = p[some], middle[:, at[some]], half[:, at[some]]
            cx, cy, cz = self._centre[:, solid]
            x, y, z = x - cx, y - cy, z - cz
            entry, leave = 0.0, np.inf
            for rows in self._rows:
                i, j, k = rows[:, solid]
                place, step = i * x + j * y + k * z, i * u + j * v + k * w
                i, j, k = abs(i), abs(j), abs(k)
                # The slacks are far above the rounding.
                wide, spread = i * a + j * b + k * c + (1 + 1e-6), i * d + j * e + k * f + 1e-12
                # Seen from the side of the slab -1 .. 1 on which the middle is.
                step *= -np.sign(place)
                place = abs(place)
                gap, slow, fast = place - wide, step - spread, step + spread
                time = gap / fast
                entry = np.maximum(entry, np.where(gap > 0, np.where(fast > 0, time, np.inf), 0.0))
                leave = np.minimum(leave, np.where(slow > 0, (place + wide) / slow, np.where(fast < 0, time, np.inf)))
            entries[some] = np.where(entry <= leave, entry, np.inf)
        return entries

    def _hit(self, kind: int, p: np.ndarray, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Distance along rays (3, M, n) to solids p (M,) of a kind, inf where they are missed, (M, n).

        o or d may be (3, 1, 1).
        """
        inverse = self.inverse[p].transpose(1, 2, 0)[..., None]
        local_o = _transform(inverse, o - self.centre[p].T[:, :, None])
        near, far = _interval(kind, local_o, _transform(inverse, d))
        ahead = (near <= far) & (far > _NEAREST)
        outside = near > _NEAREST
        # From inside, the surface ahead is the far one.
        hit = np.where(ahead, np.where(outside, near, far), np.inf)
        porous = self._porous[p]
        if porous.any():
            hit[porous] = np.inf
            ahead &= porous[:, None]
            for t, possible in ((near, ahead & outside), (far, ahead)):
                row, ray = (possible & np.isinf(hit)).nonzero()
                begin, along = (v[:, row, ray] if v.shape[2] > 1 else v[:, :, 0] for v in (o, d))
                solid = noise((begin + t[row, ray] * along).T, _LEAF) >= _HOLES
                row, ray = row[solid], ray[solid]
                hit[row, ray] = t[row, ray]
        return hit


def _transform(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors (3, M, n) by matrices (3, 3, M, 1). Written out, so that the order of the sums is one and the same."""
    x, y, z = vectors
    out = np.empty((3, *np.broadcast_shapes(matrix.shape[2:], x.shape)))
    for row, (a, b, c) in zip(out, matrix, strict=True):
        np.multiply(a, x, out=row)
        row += b * y
        row += c * z
    return out


def _interval(kind: int, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray parameters (M, n) between which rays (3, M, n) are inside a unit solid; near > far, or nan, for a miss."""
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
    return vectors[:, at] if vectors.shape[2] > 1 else vectors


def _morton_order(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """An order of rays in which neighbours are close in origin and direction, (N,) int64."""
    columns = [*(directions.T * _REACH), *origins.T]
    lows = [column.min(initial=np.inf) for column in columns]
    spans = [column.max(initial=-np.inf) - low for column, low in zip(columns, lows, strict=True)]
    cell, code = max(max(spans) / 255.0, 1e-9), np.zeros(len(origins), np.int64)
    for bit, (column, low, span) in enumerate(zip(columns, lows, spans, strict=True)):
        if span > 0:
            code |= _SPREAD[((column - low) / cell).astype(np.uint8)] << bit
    return np.argsort(code, kind='stable')
