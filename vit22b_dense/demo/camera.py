"""Pinhole pictures of a toy street, with the exact label and depth of every pixel's centre."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .light import Light, shade
from .scene import Street


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


@dataclass(frozen=True)
class Frame:
    """A picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, values of `Label`.
        depth: (H, W) float32, metres along the optical axis, 0 = nothing there.
    """

    image: np.ndarray
    label: np.ndarray
    depth: np.ndarray


def sample_view(rng: np.random.Generator, size: tuple[int, int] = (224, 320)) -> Camera:
    """A random camera at the ego vehicle's place.

    Args:
        rng: draws height, place, angles and field of view.
        size: (height, width) in pixels.
    """
    height, width = size
    yaw, pitch, roll = np.radians([rng.uniform(-14, 14), rng.uniform(-3, 5), rng.normal(0, 0.7)])
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    # Positive pitch looks down.
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    pose = np.eye(4)
    pose[:3, :3] = turn @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pose[:3, 3] = rng.uniform(-2.0, 3.0), rng.uniform(-1.2, 1.2), rng.uniform(1.2, 2.2)
    return Camera(width, height, width / 2 / np.tan(np.radians(rng.uniform(50, 80)) / 2), pose)


def render(street: Street, camera: Camera, rng: np.random.Generator, light: Light) -> Frame:
    """Take a picture.

    Args:
        street: the scene.
        camera: where from.
        rng: draws the sensor noise.
        light: sun, sky and exposure.
    """
    directions = camera.rays()
    origins = np.broadcast_to(camera.pose[:3, 3], directions.shape)
    hits = street.cast(origins, directions)
    shape = camera.height, camera.width
    depth = hits.distance * np.einsum('ij,j->i', directions, camera.pose[:3, 0])
    depth = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    linear = shade(street, light, directions, hits, 1.0 / camera.f)
    image = _develop(linear.reshape(*shape, 3), light, rng)
    return Frame(image, hits.label.reshape(shape), depth.reshape(shape))


def _develop(linear: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
    """From linear light (H, W, 3) to the uint8 image: lens, exposure, white balance, tone curve, noise."""
    light_in = cv2.GaussianBlur(linear.astype(np.float32), (3, 3), 0.45)
    light_in *= (light.exposure * light.balance).astype(np.float32)
    # Highlights roll off instead of clipping.
    bright = np.sqrt(1.35 * light_in / (1.0 + 0.35 * light_in * light_in))
    bright += rng.standard_normal(bright.shape, np.float32) * light.grain
    return (np.clip(bright, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
