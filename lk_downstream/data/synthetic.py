"""Scenes of textured shapes on textured noise: small data sets that a tiny network learns in about a minute.

A class has its own shape, colour and texture, so that it is recognised by any of them at any scale. Every scene is a
function of a seed alone.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lk_downstream.errors import InputError


@dataclass
class Synthetic:
    """A generated data set, written when the root of a data set does not exist.

    Args:
        train: Number of training images.
        val: Number of validation images.
        size: Height and width of an image, pixels.
        seed: Two data sets of the same options and seed are the same.
    """

    train: int = 64
    val: int = 16
    size: tuple[int, int] = (128, 160)
    seed: int = 0


class Look(NamedTuple):
    """How a class looks: name, outline (a key of ``OUTLINES``), colour, and texture (a key of ``TEXTURES``)."""

    name: str
    outline: str
    colour: tuple[int, int, int]
    texture: str


@dataclass
class Scene:
    """An image and what is in it.

    Attributes:
        image: uint8, (H, W, 3), RGB.
        labels: int16, (H, W); index of the object's ``Look`` at each pixel, -1 for the background.
        objects: Index of the look, outline (float64, (N, 2), x and y in pixels) and visible mask (bool, (H, W)).
    """

    image: np.ndarray
    labels: np.ndarray
    objects: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Corners on the unit circle, the first on top; every second one at the radius ``inner``."""
    angle = np.arange(corners) * (2 * math.pi / corners) - math.pi / 2
    radius = np.where(np.arange(corners) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


# Outlines as polygons within the unit circle.
OUTLINES = {
    "disc": _regular(48),
    "triangle": _regular(3),
    "diamond": _regular(4) * [0.7, 1.0],
    "hexagon": _regular(6),
    "star": _regular(10, inner=0.5),
    "square": np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.75,
    "bar": np.array([[-1, -0.45], [1, -0.45], [1, 0.45], [-1, 0.45]]),
    "pillar": np.array([[-0.4, -1], [0.4, -1], [0.4, 1], [-0.4, 1]]),
    "cross": np.array(
        [[-3, -1], [-1, -1], [-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1], [1, 3], [-1, 3], [-1, 1], [-3, 1]]
    )
    / 3.2,
}

# Textures as brightness between -1 and 1 at the pixel (x, y) with a period of p pixels.
TEXTURES = {
    "plain": lambda x, y, p: np.zeros(np.broadcast_shapes(x.shape, y.shape)),
    "rows": lambda x, y, p: np.where(y % p < p / 2, 1.0, -1.0) + 0 * x,
    "columns": lambda x, y, p: np.where(x % p < p / 2, 1.0, -1.0) + 0 * y,
    "diagonals": lambda x, y, p: np.where((x + y) % p < p / 2, 1.0, -1.0),
    "checks": lambda x, y, p: np.where((x % p < p / 2) ^ (y % p < p / 2), 1.0, -1.0),
    "dots": lambda x, y, p: np.where((x % p - p / 2) ** 2 + (y % p - p / 2) ** 2 < (p / 4) ** 2, -1.5, 0.4),
}


class Painter:
    """Paints one scene: background first, then objects, later ones over earlier ones.

    Args:
        looks: The classes; an object is named by its index here.
        size: Height and width.
        rng: Source of all chance.
    """

    def __init__(self, looks: Sequence[Look], size: tuple[int, int], rng: np.random.Generator):
        self.looks, self.rng = looks, rng
        self.height, self.width = size
        self.y, self.x = np.mgrid[: self.height, : self.width]
        self.period = max(4, min(size) // 12)
        grey = 105 + 20 * rng.standard_normal(3) + 25 * self._blotches()[..., None]
        self.scene = Scene(
            image=np.broadcast_to(grey, (*size, 3)).astype(np.float32), labels=np.full(size, -1, dtype=np.int16)
        )

    def region(self, look: int, mask: np.ndarray) -> None:
        """Fill the pixels of ``mask`` (bool, (H, W)) with a class, such as sky."""
        texture = TEXTURES[self.looks[look].texture](self.x, self.y, self.period)
        shade = 22 * texture + 10 * self._blotches() + self.rng.uniform(-10, 10)
        colour = np.asarray(self.looks[look].colour, dtype=np.float32)
        self.scene.image[mask] = (colour + shade[..., None])[mask]
        self.scene.labels[mask] = look
        for _, _, visible in self.scene.objects:
            visible &= ~mask

    def place(self, look: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
        """Paint an object of the given radius, pixels, somewhere or at ``centre`` (x, y); returns its mask."""
        if centre is None:
            centre = (self._inside(self.width, radius), self._inside(self.height, radius))
        turn = self.rng.uniform(-0.3, 0.3)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        outline = OUTLINES[self.looks[look].outline] @ rotation * radius + centre
        canvas = Image.new("1", (self.width, self.height))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline.tolist()], fill=1)
        mask = np.array(canvas)
        self.region(look, mask)
        self.scene.objects.append((look, outline, mask.copy()))
        return mask

    def finish(self, noise: float = 8.0) -> Scene:
        """The scene with sensor noise, as uint8."""
        image = self.scene.image + noise * self.rng.standard_normal((self.height, self.width, 1), dtype=np.float32)
        self.scene.image = np.clip(image, 0, 255).astype(np.uint8)
        return self.scene

    def _blotches(self) -> np.ndarray:
        """Smooth noise between about -1 and 1, (H, W)."""
        coarse = self.rng.uniform(-1, 1, size=(6, 8)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((self.width, self.height), Image.Resampling.BICUBIC))

    def _inside(self, extent: int, radius: float) -> float:
        """A coordinate at which an object is inside the image but for at most a third of its radius."""
        margin = min(0.67 * radius, extent / 2)
        return float(self.rng.uniform(margin, extent - margin))


def street_scene(
    looks: Sequence[Look], size: tuple[int, int], rng: np.random.Generator, first: int, unlabelled: Look
) -> Scene:
    """Sky (look 0) above ground (look 1), three to five objects of the other looks, and one unlabelled object.

    Args:
        looks: The classes, at least three; the first two are sky and ground.
        size: Height and width.
        rng: Source of chance.
        first: The first object has the look ``2 + first % (number of object looks)``, so that all occur.
        unlabelled: Look of an object whose label stays -1.
    """
    painter = Painter([*looks, unlabelled], size, rng)
    height, width = size
    horizon = height * rng.uniform(0.35, 0.6) + width * rng.uniform(-0.1, 0.1) * (painter.x / width - 0.5)
    painter.region(0, painter.y < horizon)
    painter.region(1, painter.y >= horizon)
    painter.place(len(looks), rng.uniform(0.1, 0.16) * min(size))
    kinds = len(looks) - 2
    for number in range(int(rng.integers(3, 6))):
        painter.place(2 + (first + number) % kinds, rng.uniform(0.16, 0.28) * min(size))
    scene = painter.finish()
    scene.labels[scene.labels == len(looks)] = -1
    return scene


@contextlib.contextmanager
def complete_folder(root: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name ``root`` only when the block ends without an error.

    Whatever happens inside, ``root`` either does not exist or is complete. If another process has made it meanwhile,
    its folder stays.

    Raises:
        InputError: ``root`` exists already, or cannot be written.
    """
    root = Path(root)
    if root.exists():
        raise InputError(f"{root} exists already: remove it, or name another folder for the generated data")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    except OSError as error:
        raise InputError(f"cannot write {root} ({error.strerror}): name another folder as root") from error
    try:
        temporary.chmod(0o755)
        yield temporary
        try:
            temporary.replace(root)
        except OSError:  # another process was first; what the error is called differs from system to system
            if not root.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def counted(items: Iterable, total: int, label: str) -> Iterator:
    """Pass the items on; on a terminal, show how many are done once it takes longer than two seconds."""
    start, shown = time.monotonic(), False
    for number, item in enumerate(items, start=1):
        yield item
        if sys.stderr.isatty() and time.monotonic() - start > 2 and (number % 10 == 0 or number == total):
            print(f"\r{label}: {number} of {total}", end="", file=sys.stderr, flush=True)
            shown = True
    if shown:
        print(file=sys.stderr)
