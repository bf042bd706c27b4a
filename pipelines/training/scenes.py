"""Training footage made from photographs: random camera motion over pictures that well-kept packages ship, and over
procedural scenes. A clip is (T, H, W, 3) uint8 RGB.

Photographs: scikit-image's and scikit-learn's sample images (their READMEs give origin and licence of each).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rng = np.random.Generator

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
WEIGHTS = {"astronaut.png": 4.0, "chelsea.png": 4.0, "coffee.png": 2.0, "rocket.jpg": 2.0, "motorcycle_left.png": 2.0,
           "china.jpg": 3.0, "flower.jpg": 2.0}  # fmt: skip
"""How often a photograph is shown, against 1 for the others: natural scenes and faces before textures."""


def photographs() -> dict[str, Pixels]:
    """All photographs by file name, (H, W, 3)."""
    folder = Path(skimage.data.__file__).parent
    found = {name: _read(folder / name) for name in PHOTOGRAPHS if (folder / name).is_file()}
    images = sklearn.datasets.load_sample_images()
    for name, image in zip(images.filenames, images.images, strict=True):
        found[Path(name).name] = np.asarray(image, dtype=np.uint8)
    return found


def _read(path: Path) -> Pixels:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{path} is no readable image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def procedural(rng: Rng, size: int = 512) -> Pixels:
    """A drawn scene (size, size, 3): a gradient with polygons, discs, lines and letters of random colour."""
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    picture = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    for _ in range(int(rng.integers(8, 30))):
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        x, y = (int(v) for v in rng.integers(0, size, 2))
        radius = int(rng.integers(8, size // 5))
        match int(rng.integers(0, 4)):
            case 0:
                cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)
            case 1:
                points = rng.integers(-radius, radius, (int(rng.integers(3, 7)), 2)) + np.array([x, y])
                cv2.fillPoly(picture, [points.astype(np.int32)], colour, cv2.LINE_AA)
            case 2:
                end = (x + int(rng.integers(-200, 200)), y + int(rng.integers(-200, 200)))
                cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 12)), cv2.LINE_AA)
            case _:
                letter = chr(int(rng.integers(65, 91)))
                cv2.putText(picture, letter, (x, y), cv2.FONT_HERSHEY_DUPLEX, radius / 20, colour, 3, cv2.LINE_AA)
    return np.asarray(picture, dtype=np.uint8)


@dataclass(frozen=True)
class Motion:
    """A camera over a picture: centre (its pixels), its pixels per output pixel, angle (rad), and change a frame."""

    centre: tuple[float, float]
    scale: float
    angle: float
    velocity: tuple[float, float]
    zoom: float
    turn: float

    def matrix(self, t: float, width: int, height: int) -> NDArray[np.float64]:
        """The 2x3 map from output to picture coordinates at frame t."""
        scale, angle = self.scale * self.zoom**t, self.angle + self.turn * t
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        x, y = (c + v * t for c, v in zip(self.centre, self.velocity, strict=True))
        rotation = np.array([[cos, -sin], [sin, cos]])
        offset = np.array([x, y]) - rotation @ np.array([width / 2, height / 2])
        return np.concatenate([rotation, offset[:, None]], axis=1)


def random_motion(rng: Rng, picture: Pixels, width: int, height: int) -> Motion:
    """A quarter of all cameras stand still; the others pan, zoom and turn."""
    rows, columns = picture.shape[:2]
    largest = min(rows / height, columns / width)
    scale = float(np.exp(rng.uniform(np.log(min(0.45, largest)), np.log(min(largest, 2.2)))))
    still = rng.random() < 0.25
    speed = 0.0 if still else float(rng.gamma(1.5, 1.6)) * scale
    heading = rng.uniform(0, 2 * np.pi)
    margin = 0.25
    return Motion(
        centre=(columns * rng.uniform(margin, 1 - margin), rows * rng.uniform(margin, 1 - margin)),
        scale=scale,
        angle=float(rng.normal(0, 0.15)),
        velocity=(speed * float(np.cos(heading)), speed * float(np.sin(heading))),
        zoom=1.0 if still else float(np.exp(rng.normal(0, 0.008))),
        turn=0.0 if still else float(rng.normal(0, 0.008)),
    )


def film(rng: Rng, picture: Pixels, motion: Motion, frames: int, width: int, height: int) -> Pixels:
    """What the camera sees, with light, colour and sensor noise drawn once per clip: (frames, height, width, 3)."""
    gain, gamma = rng.uniform(0.75, 1.2), rng.uniform(0.75, 1.35)
    saturation, tint = rng.uniform(0.5, 1.4), rng.uniform(0.92, 1.08, 3)
    mirrored = rng.random() < 0.5
    noise = float(rng.choice([0.0, 0.0, 2.0, 4.0]))
    clip = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        view = cv2.warpAffine(
            picture, motion.matrix(t, width, height), (width, height),
            flags=(cv2.INTER_AREA if motion.scale > 1 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        ).astype(np.float32)  # fmt: skip
        view = np.asarray(255 * gain * (view / 255) ** gamma, np.float32)
        grey = view.mean(axis=2, keepdims=True)
        view = np.asarray((grey + saturation * (view - grey)) * tint, np.float32)
        if noise:
            view += rng.normal(0, noise, view.shape)
        clip[t] = np.clip(view[:, ::-1] if mirrored else view, 0, 255)
    return clip


class Scenery:
    """Endless random clips; the same generator gives the same clips."""

    def __init__(self) -> None:
        self._photographs = photographs()
        weights = np.array([WEIGHTS.get(name, 1.0) for name in self._photographs])
        self._weights = weights / weights.sum()

    def clip(self, rng: Rng, frames: int, width: int, height: int) -> Pixels:
        """One clip: of a photograph four times in five, else of a drawn scene; sometimes an object moves through."""
        if rng.random() < 0.8:
            name = str(rng.choice(list(self._photographs), p=self._weights))
            picture = self._enlarged(self._photographs[name], width, height)
        else:
            picture = procedural(rng)
        clip = film(rng, picture, random_motion(rng, picture, width, height), frames, width, height)
        if rng.random() < 0.3:
            self._add_object(rng, clip)
        return clip

    @staticmethod
    def _enlarged(picture: Pixels, width: int, height: int) -> Pixels:
        factor = max(width * 0.6 / picture.shape[1], height * 0.6 / picture.shape[0], 1.0)
        if factor == 1.0:
            return picture
        return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)

    def _add_object(self, rng: Rng, clip: Pixels) -> None:
        """A piece of another photograph moves over the clip, cut out by a soft ellipse. Changes `clip`."""
        frames, height, width = clip.shape[:3]
        name = str(rng.choice(list(self._photographs), p=self._weights))
        size = int(min(height, width) * rng.uniform(0.3, 0.7))
        photograph = self._photographs[name]
        side = min(photograph.shape[:2])
        y, x = (int(rng.integers(0, s - side + 1)) for s in photograph.shape[:2])
        patch = cv2.resize(photograph[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
        mask = np.zeros((size, size), np.float32)
        cv2.ellipse(mask, (size // 2, size // 2), (size // 2 - 3, size // 3), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        start, velocity = rng.uniform(0, 1, 2) * (width - size, height - size), rng.normal(0, 3, 2)
        for t in range(frames):
            left, top = start + velocity * t
            matrix = np.array([[1, 0, left], [0, 1, top]])
            moved = cv2.warpAffine(patch, matrix, (width, height))
            alpha = cv2.warpAffine(mask, matrix, (width, height))[..., None]
            clip[t] = clip[t] * (1 - alpha) + moved * alpha
