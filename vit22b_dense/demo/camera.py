"""Pinhole pictures of a toy street, with the exact label and depth of every pixel's centre."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .light import Light, shade
from .parts import rotation
from .raycast import Street


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. In its own frame it looks along +x, y left, z up.

    Attributes:
        width, height: of the image, pixels.
        f: focal length, pixels. The optical axis passes through the middle of the image.
        pose: (4, 4) float, camera to vehicle, metres.
    """

    width: int
    height: int
    f: float
    pose: np.ndarray

    def rays(self) -> np.ndarray:
        """Unit directions through the pixels' centres, vehicle frame, row by row, (height * width, 3)."""
        left = self.width / 2 - (np.arange(self.width) + 0.5)
        up = self.height / 2 - (np.arange(self.height)[:, None] + 0.5)
        ahead = np.stack([a.ravel() for a in np.broadcast_arrays(self.f, left, up)], axis=1)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        return np.einsum('ij,nj->ni', self.pose[:3, :3], ahead)


class Picture(NamedTuple):
    """What a camera sees.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, values of `Label`.
        depth: (H, W) float32, metres along the optical axis, 0 = nothing there.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray


def rigid(turn: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The transform (4, 4) that turns (3, 3) and then moves (3,)."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = turn, place
    return result


def sample_view(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A random camera at the ego vehicle's place.

    Args:
        rng: draws height, place, angles and field of view.
        size: (height, width) in pixels.
    """
    height, width = size
    # Positive pitch looks down.
    yaw, pitch, roll = np.radians([rng.uniform(-14, 14), rng.uniform(-3, 5), rng.normal(0, 0.7)])
    place = rng.uniform(-2.0, 3.0), rng.uniform(-1.2, 1.2), rng.uniform(1.2, 2.2)
    pose = rigid(rotation(2, yaw) @ rotation(1, pitch) @ rotation(0, roll), place)
    return Camera(width, height, width / 2 / np.tan(np.radians(rng.uniform(50, 80)) / 2), pose)


def render(street: Street, camera: Camera, rng: np.random.Generator, light: Light) -> Picture:
    """Take a picture.

    Args:
        street: the scene.
        camera: where from.
        rng: draws the sensor noise.
        light: sun, sky and exposure.
    """
    directions = camera.rays()
    hits = street.cast(np.broadcast_to(camera.pose[:3, 3], directions.shape), directions)
    shape = camera.height, camera.width
    depth = hits.distance * np.einsum('ij,j->i', directions, camera.pose[:3, 0])
    depth = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    linear = shade(street, light, directions, hits, 1.0 / camera.f).reshape(*shape, 3)
    return Picture(_develop(linear, light, rng), hits.label.reshape(shape), depth.reshape(shape))


def _develop(linear: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
    """From linear light (H, W, 3) to the uint8 image: lens, exposure, white balance, tone curve, noise."""
    light_in = cv2.GaussianBlur(linear.astype(np.float32), (3, 3), 0.45)
    light_in *= (light.exposure * light.balance).astype(np.float32)
    # Highlights roll off instead of clipping.
    bright = np.sqrt(1.35 * light_in / (1.0 + 0.35 * light_in * light_in))
    bright += rng.standard_normal(bright.shape, np.float32) * light.grain
    return (np.clip(bright, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def encode_jpeg(image: np.ndarray) -> bytes:
    """An RGB image (H, W, 3) uint8 as the data sets' JPEG files hold it."""
    return cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
