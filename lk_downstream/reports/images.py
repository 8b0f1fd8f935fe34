"""Images of a page: truth and prediction under a slider, the worst first, to be filtered by class."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lk_downstream import trust
from lk_downstream.reports.files import read_part

FILE = "worst_images.json"
MOST_BYTES = 7_000_000  # of all images of a page, in base64
SIDE, OBJECT_SIDE = 512, 96  # pixels of the longer side of an image and of the mask of an object as they are kept
QUALITY = 80  # of JPEG
NONE = 255  # of a mask, where nothing is drawn


class Box(NamedTuple):
    """An object: left, top, width and height as fractions of the image, number of its class, score, and its mask within
    the box as a PNG file in base64.
    """

    left: float
    top: float
    width: float
    height: float
    label: int
    score: float | None = None
    mask: str = ""


@dataclass(frozen=True)
class Layer:
    """What lies over an image: a mask as PNG file in base64, and boxes; either may be missing."""

    mask: str = ""
    boxes: Sequence[Box] = ()


@dataclass(frozen=True)
class Sample:
    """An image with what is known of it.

    Attributes:
        name: of the image.
        image: JPEG file in base64.
        size: width and height in pixels.
        metric: a fraction of 1 by which it is sorted, the worst first; NaN: it has none.
        facts: what else is said of it, by name.
        labels: numbers of the classes in truth or prediction, by which it is found.
        truth: what lies over the image; None: nothing, as of a classifier.
        prediction: likewise.
    """

    name: str
    image: str
    size: tuple[int, int]
    metric: float = math.nan
    facts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[int] = ()
    truth: Layer | None = None
    prediction: Layer | None = None


@dataclass(frozen=True)
class Images:
    """Images with truth and prediction.

    Args:
        samples: The worst first.
        metric: The name of the metric by which they are sorted.
        classes: All names.
        palette: A colour (red, green, blue) of 0 to 255 for each class.
        all_of: How many images there were.
    """

    kind: ClassVar[str] = "images"
    samples: Sequence[Sample]
    metric: str
    classes: Sequence[str]
    palette: Sequence[Sequence[int]] = ()
    all_of: int = 0

    def labels(self) -> list[int]:
        """The classes that occur, by name."""
        found = {label for sample in self.samples for label in sample.labels}
        return sorted(found, key=lambda label: self.classes[label].lower())

    def colour(self, label: int) -> str:
        """The colour of a class for a style; that of text where there is none."""
        if label >= len(self.palette):
            return "currentColor"
        red, green, blue = map(int, self.palette[label])
        return f"rgb({red} {green} {blue})"

    def ink(self, label: int) -> str:
        """Black or white, whichever is legible on the class's colour."""
        red, green, blue = map(int, self.palette[label]) if label < len(self.palette) else (0, 0, 0)
        return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"

    @property
    def layered(self) -> bool:
        """Whether something lies over the images."""
        return any(sample.truth or sample.prediction for sample in self.samples)

    @property
    def masked(self) -> bool:
        """Whether that is masks."""
        layers = [layer for sample in self.samples for layer in (sample.truth, sample.prediction) if layer]
        return any(layer.mask or any(box.mask for box in layer.boxes) for layer in layers)

    @property
    def scored(self) -> bool:
        """Whether predicted boxes have scores."""
        layers = [sample.prediction for sample in self.samples if sample.prediction]
        return any(box.score is not None for layer in layers for box in layer.boxes)


def fitted(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Width and height at which an image is kept: no side longer than ``side``, none shorter than a pixel."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encoded_image(image: np.ndarray) -> str:
    """An image uint8 (H, W, 3), made smaller, as a JPEG file in base64."""
    from PIL import Image

    small = Image.fromarray(image).resize(fitted(*image.shape[:2]), Image.Resampling.BOX, reducing_gap=2.0)
    return _encoded(small.convert("RGB"), "JPEG", quality=QUALITY, optimize=True)


def encoded_mask(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> str:
    """A mask uint8 (H, W), made smaller, in the colours of its classes as a PNG file in base64.

    What is no class (255) is transparent.
    """
    from PIL import Image

    small = Image.fromarray(mask).resize(fitted(*mask.shape), Image.Resampling.NEAREST).convert("P")
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    small.putpalette(colours.tobytes())
    return _encoded(small, "PNG", transparency=NONE, optimize=True)


def encoded_outline(mask: np.ndarray, colour: Sequence[int]) -> str:
    """The mask bool (H, W) of an object, cut out and made smaller, in one colour as a PNG file in base64."""
    from PIL import Image

    size = fitted(*mask.shape, OBJECT_SIDE)
    small = Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST).convert("P")
    small.putpalette(bytes([0, 0, 0, *(int(part) for part in colour)]))
    return _encoded(small, "PNG", transparency=0, optimize=True, bits=1)


def _encoded(image: Any, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode("ascii")


def plain(samples: Sequence[Sample], metric: str, classes: Sequence[str], palette: Any, all_of: int) -> dict[str, Any]:
    """:class:`Images` as plain data for a file, which :func:`from_plain` reads."""
    rows = []
    for sample in samples:
        row = dict(vars(sample))
        for name in ("truth", "prediction"):
            if row[name] is not None:
                row[name] = {"mask": row[name].mask, "boxes": [list(box) for box in row[name].boxes]}
        rows.append({**row, "facts": dict(sample.facts), "labels": list(sample.labels), "size": list(sample.size)})
    colours = [[int(part) for part in colour] for colour in palette]
    return {"metric": metric, "all_of": all_of, "classes": list(classes), "palette": colours, "samples": rows}


def read_images(folder: Path) -> Images | None:
    """The images that a run has left in its folder.

    Raises:
        InputError: Their file is damaged.
    """
    return read_part(folder, FILE, lambda path: from_plain(trust.read_json(path)))


def fitting(groups: Iterable[Sequence[Sample]], most: int = MOST_BYTES) -> list[Sample]:
    """The first groups of samples, as many as have no more than ``most`` bytes of images in base64."""
    shown: list[Sample] = []
    for group in groups:
        for sample in group:
            layers = [layer for layer in (sample.truth, sample.prediction) if layer]
            most -= len(sample.image) + sum(len(layer.mask) for layer in layers)
        if most < 0:
            break
        shown += group
    return shown


def from_plain(content: Any) -> Images:
    """The images of a file, see :func:`plain`.

    Raises:
        ValueError, TypeError, KeyError, IndexError, AttributeError: The content is not what that function makes.
    """
    samples, classes = [], [str(name) for name in content["classes"]]
    for row in content["samples"]:
        layers = {}
        for name in ("truth", "prediction"):
            if (layer := row[name]) is not None:
                boxes = [_box(*box) for box in layer["boxes"]]
                layers[name] = Layer(str(layer["mask"]), boxes)
        width, height = map(int, row["size"])
        labels = [int(label) for label in row["labels"]]
        if not all(0 <= label < len(classes) for label in labels):
            raise ValueError(f"{row['name']!r:.100} has a class that is none of the {len(classes)}")
        metric = math.nan if row["metric"] is None else float(row["metric"])
        facts = {str(name): str(value) for name, value in row["facts"].items()}
        samples.append(Sample(str(row["name"]), str(row["image"]), (width, height), metric, facts, labels, **layers))
    return Images(samples, str(content["metric"]), classes, content["palette"], int(content["all_of"]))


def _box(left: float, top: float, width: float, height: float, label: int, score: float | None, mask: str) -> Box:
    place = map(float, (left, top, width, height))
    return Box(*place, int(label), None if score is None else float(score), str(mask))
