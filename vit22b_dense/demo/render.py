"""Pinhole pictures of a toy street under a sun and a sky, with the exact label and depth of every pixel's centre."""

from typing import NamedTuple

import cv2
import numpy as np

from .parts import Material, rotation
from .raycast import Hits, Street, noise
from .texture import surface_colour

_SHADOWS = 120.0  # metres: haze and pixel size hide shadows that are farther away


class Camera(NamedTuple):
    """A pinhole camera. In its own frame it looks along +x, y left, z up; the axis is in the image's middle."""

    width: int  # pixels
    height: int
    f: float  # focal length, pixels
    pose: np.ndarray  # (4, 4), camera to vehicle, metres

    def rays(self) -> np.ndarray:
        """Unit directions through the pixels' centres, vehicle frame, row by row, (height * width, 3)."""
        left = self.width / 2 - (np.arange(self.width) + 0.5)
        up = self.height / 2 - (np.arange(self.height)[:, None] + 0.5)
        ahead = np.stack([a.ravel() for a in np.broadcast_arrays(self.f, left, up)], axis=1)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        return np.einsum('ij,nj->ni', self.pose[:3, :3], ahead)


class Light(NamedTuple):
    """Light of a scene, and how a sensor takes it. Colours are linear."""

    sun: np.ndarray  # (3,) unit vector towards the sun, in the street's frame
    sun_colour: np.ndarray  # (3,) light on a surface that faces the sun
    ambient: np.ndarray  # (3,) light from the whole sky on a surface that faces up
    zenith: np.ndarray  # (3,) colour of the sky overhead
    horizon: np.ndarray  # (3,) colour of the sky at the horizon
    clouds: float  # share of the sky they cover, 0 .. 1
    drift: np.ndarray  # (3,) which part of the cloud pattern is overhead
    haze: float  # share of a surface's light lost a metre
    exposure: float  # factor on the light that reaches the sensor
    balance: np.ndarray  # (3,) factors of the white balance
    grain: float  # standard deviation of the sensor noise, of 0 .. 1


class Picture(NamedTuple):
    """What a camera sees."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) uint8, values of `Label`
    depth: np.ndarray  # (H, W) float32, metres along the optical axis, 0 = nothing there


def rigid(turn: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The transform (4, 4) that turns (3, 3) and then moves (3,)."""
    return np.vstack([np.column_stack([turn, place]), [0.0, 0.0, 0.0, 1.0]])


def sample_view(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A random camera at the ego vehicle's place, for pictures of size (height, width) in pixels."""
    height, width = size
    # Positive pitch looks down.
    yaw, pitch, roll = np.radians([rng.uniform(-14, 14), rng.uniform(-3, 5), rng.normal(0, 0.7)])
    place = rng.uniform(-2.0, 3.0), rng.uniform(-1.2, 1.2), rng.uniform(1.2, 2.2)
    pose = rigid(rotation(2, yaw) @ rotation(1, pitch) @ rotation(0, roll), place)
    return Camera(width, height, width / 2 / np.tan(np.radians(rng.uniform(50, 80)) / 2), pose)


def sample_light(rng: np.random.Generator) -> Light:
    """A random time of day and weather."""
    elevation, azimuth = np.radians(rng.uniform(18, 65)), rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    overcast = rng.uniform(0.75, 1.0) if rng.random() < 0.25 else rng.uniform(0.0, 0.35)
    warm = np.clip(1.3 - np.degrees(elevation) / 35, 0, 1)
    sun_colour = np.array([1.0, 0.93 - 0.13 * warm, 0.82 - 0.30 * warm]) * (1.15 * (1 - 0.9 * overcast))
    blue = np.array([0.16, 0.32, 0.66]) * rng.uniform(0.85, 1.15)
    pale = np.array([0.62, 0.72, 0.84]) + warm * np.array([0.16, 0.02, -0.14])
    grey = np.full(3, rng.uniform(0.55, 0.8)) * (0.97, 1.0, 1.04)
    zenith, horizon = blue + (grey * 0.85 - blue) * overcast, pale + (grey - pale) * overcast
    ambient = (0.55 * zenith + 0.35 * horizon) * (0.85 + 0.25 * overcast)
    clouds, drift, haze = rng.uniform(0.1, 0.6), rng.uniform(0, 20, 3), rng.uniform(0.0005, 0.0045)
    exposure, balance, grain = rng.uniform(0.8, 1.25), 1.0 + rng.normal(0, 0.03, 3), rng.uniform(0.006, 0.02)
    return Light(sun, sun_colour, ambient, zenith, horizon, clouds, drift, haze, exposure, balance, grain)


def render(street: Street, camera: Camera, rng: np.random.Generator, light: Light) -> Picture:
    """Take a picture; `rng` draws the sensor noise."""
    directions, shape = camera.rays(), (camera.height, camera.width)
    hits = street.cast(np.broadcast_to(camera.pose[:3, 3], directions.shape), directions)
    depth = hits.distance * np.einsum('ij,j->i', directions, camera.pose[:3, 0])
    depth = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    linear = shade(street, light, directions, hits, 1.0 / camera.f).reshape(*shape, 3)
    # The lens, the exposure, and a tone curve by which highlights roll off instead of clipping.
    light_in = cv2.GaussianBlur(linear.astype(np.float32), (3, 3), 0.45)
    light_in *= (light.exposure * light.balance).astype(np.float32)
    bright = np.sqrt(1.35 * light_in / (1.0 + 0.35 * light_in * light_in))
    bright += rng.standard_normal(bright.shape, np.float32) * light.grain
    image = (np.clip(bright, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return Picture(image, hits.label.reshape(shape), depth.reshape(shape))


def encode_jpeg(image: np.ndarray) -> bytes:
    """An RGB image (H, W, 3) uint8 as the data sets' JPEG files hold it."""
    return cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def shade(street: Street, light: Light, directions: np.ndarray, hits: Hits, pixel: float) -> np.ndarray:
    """Linear colours that reach the eye, (N, 3) float64, 0 .. about 1.5.

    The rays have unit directions (N, 3), and `hits` are what they hit; each stands for an angle of `pixel` radians.
    """
    colour = np.empty(directions.shape)
    missed, seen = (np.flatnonzero(at) for at in (hits.primitive < 0, hits.primitive >= 0))
    colour[missed] = _sky_colour(light, directions[missed])
    hit, toward = Hits(*(field[seen] for field in hits)), directions[seen]
    facing = np.maximum(-np.einsum('ij,ij->i', hit.normal, toward), 0.05)
    surface, gloss = surface_colour(street, hit, hit.distance * pixel / np.sqrt(facing))
    # A square is near enough to the sRGB curve, and fast.
    surface *= surface
    sunlit = np.maximum(np.einsum('ij,j->i', hit.normal, light.sun), 0.0)
    leaves = street.material[hit.primitive] == Material.LEAVES
    # Leaves let light through and face every way.
    sunlit[leaves] = 0.30 + 0.60 * sunlit[leaves]
    check = np.flatnonzero((sunlit > 0) & (hit.distance < _SHADOWS))
    start = hit.points[check] + 2e-3 * hit.normal[check]
    blocked = street.blocked(start, np.broadcast_to(light.sun, start.shape))
    sunlit[check[blocked]] = 0.0
    # Sky light from above, light thrown back by the ground from below.
    up = 0.5 + 0.5 * hit.normal[:, 2:]
    sky = up * light.ambient + (1 - up) * 0.30 * (light.ambient + 0.5 * light.sun[2] * light.sun_colour)
    lit = surface * (sunlit[:, None] * light.sun_colour + sky * _openness(street, hit)[:, None])
    shiny = np.flatnonzero(gloss > 0)
    facing = facing[shiny, None]
    mirrored = toward[shiny] + 2 * facing * hit.normal[shiny]
    mirror = np.where(mirrored[:, 2:] > 0.05, _sky_colour(light, mirrored), 0.12 * light.ambient)
    lit[shiny] += (mirror - lit[shiny]) * (gloss[shiny, None] * (0.15 + 0.85 * (1 - facing) ** 3))
    clear = np.exp(-light.haze * hit.distance)[:, None]
    colour[seen] = lit * clear + light.horizon * 0.95 * (1 - clear)
    return colour


def _openness(street: Street, hit: Hits) -> np.ndarray:
    """How much of the sky ground points see past the cars over them, (N,); 1 for all else."""
    openness = np.ones(len(hit.distance))
    on_ground = np.isin(street.material[hit.primitive], (Material.ASPHALT, Material.PAVING))
    ground = np.flatnonzero(on_ground & (hit.distance < 60))
    points = hit.points[ground]
    for p in np.flatnonzero(street.material == Material.UNDERSIDE):
        to = points - street.centre[p]
        near = np.flatnonzero(np.einsum('ij,ij->i', to, to) < 4.0**2)
        out = (np.abs(np.einsum('ij,nj->ni', street.inverse[p], to[near])) - 1.0) * street.half[p]
        out = np.hypot(*np.maximum(out[:, :2], 0.0).T)
        openness[ground[near]] *= 1 - 0.80 * np.exp(-((out / 0.45) ** 2))
    return openness


def _sky_colour(light: Light, directions: np.ndarray) -> np.ndarray:
    """Linear colour of the sky, (N, 3), along unit directions (N, 3)."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    colour = light.horizon + (light.zenith - light.horizon) * (up**0.45)[:, None]
    # Clouds on a plane overhead: three octaves of the same noise.
    plane = directions / np.maximum(directions[:, 2:], 0.04) * (1.0, 1.0, 0.0) + light.drift
    cover = 0.55 * noise(plane, 0.35) + 0.3 * noise(plane, 0.11) + 0.15 * noise(plane, 0.04)
    cover = np.clip((cover - (0.85 - 0.6 * light.clouds)) / 0.22, 0, 1) * np.clip(up / 0.12, 0, 1)
    white = 0.55 * light.horizon + 0.4 * (light.sun_colour + 0.25)
    colour += (white - colour) * (0.85 * cover)[:, None]
    glow = np.clip(np.einsum('ij,j->i', directions, light.sun), 0, 1) ** 24
    return colour + glow[:, None] * light.sun_colour * 0.35
