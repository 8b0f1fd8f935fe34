"""What a model says of an image, as plain arrays that know the classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lk_downstream.errors import InputError
from lk_downstream.metrics import encode_masks
from lk_downstream.reports.files import write_image, write_json
from lk_downstream.reports.masks import colour_table, overlay
from lk_downstream.reports.objects import Objects, draw_detections

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(kw_only=True)
class Result(ABC):
    """Of one image.

    Attributes:
        classes: Names of all classes of the model.
        palette: A colour (red, green, blue) of 0 to 255 for each class.
        category_ids: The number of each class in files of COCO's format.
        name: Of the image: its path, or its place among those given.
        size: Height and width of the image in pixels.
        source: The image uint8 (H, W, 3), or what reads it again.
    """

    forms: ClassVar[tuple[str, ...]] = (".json", *IMAGES)  # of files that ``save`` writes
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    category_ids: tuple[int, ...]
    name: str = ""
    size: tuple[int, int] = (0, 0)
    source: np.ndarray | Callable[[], np.ndarray] | None = field(default=None, repr=False)

    @property
    def image(self) -> np.ndarray:
        """The image uint8 (H, W, 3), read again where it came from a file.

        Raises:
            InputError: It is not there.
        """
        if self.source is None:
            raise InputError(f"the result of {self.name or 'this image'} was made without its image")
        return self.source() if callable(self.source) else self.source

    @abstractmethod
    def draw(self) -> np.ndarray:
        """The image with the result, uint8 (height, width, 3)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, for JSON."""

    @abstractmethod
    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Rows of a results file in COCO's format."""

    def show(self) -> None:
        """Open the drawn image in the system's viewer; a notebook shows a result that ends a cell by itself."""
        from PIL import Image

        Image.fromarray(self.draw()).show(self.name)

    def save(self, path: str | Path) -> Path:
        """Write ``to_dict`` to a file ending with ``.json``, or the drawn image to one of another kind; returns it.

        Raises:
            InputError: Neither is known by that ending.
        """
        path = self._checked(path)
        if path.suffix.lower() == ".json":
            write_json(path, self.to_dict())
        else:
            write_image(path, self.draw())
        return path

    def _checked(self, path: str | Path) -> Path:
        path = Path(path)
        if path.suffix.lower() not in self.forms:
            raise InputError(f"{path}: a {type(self).__name__} is written to files ending with {', '.join(self.forms)}")
        return path

    def _repr_png_(self) -> bytes:
        import io

        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(self.draw()).save(file, "PNG")
        return file.getvalue()


@dataclass(kw_only=True)
class ClassMap(Result):
    """A class for each pixel.

    Attributes:
        mask: uint8 (H, W), class indices.
        probabilities: float32 (classes, H, W), where they were asked for.
        label_values: uint8 (256,): the value of each class in the data set's own mask files.
    """

    mask: np.ndarray
    probabilities: np.ndarray | None = None
    label_values: np.ndarray = field(default_factory=lambda: np.arange(256, dtype=np.uint8), repr=False)

    def draw(self) -> np.ndarray:
        """The image under the colours of its classes."""
        return overlay(self.image, self.mask, colour_table(self.palette))

    def save(self, path: str | Path, overlay: bool = False) -> Path:
        """Write the mask with the values of the data set's own files, without loss, or the image under its colours.

        A file ending with ``.json`` gets ``to_dict``.

        Raises:
            InputError: The ending is of no such file; a mask in JPEG would get other values.
        """
        path = self._checked(path)
        if overlay or path.suffix.lower() == ".json":
            return super().save(path)
        if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
            raise InputError(f"{path} would not keep class indices as they are: write .png, or set overlay=True")
        write_image(path, self.label_values[self.mask])
        return path

    def to_dict(self) -> dict[str, Any]:
        """Name, size, and of each class that occurs its share of the pixels."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        shares = {self.classes[label]: counts[label] / self.mask.size for label in order.tolist() if counts[label]}
        return {"name": self.name, "size": list(self.size), "shares": shares}

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """A row with a run-length code for each class that occurs, as results of COCO-Stuff have it."""
        labels = np.unique(self.mask).tolist()
        rows = []
        for label in labels:
            code = encode_masks(torch.from_numpy(self.mask == label)[None])[0]
            rows.append({"image_id": image_id, "category_id": self.category_ids[label], "segmentation": code})
        return rows


@dataclass(kw_only=True)
class Detections(Result):
    """Objects, best first.

    Attributes:
        boxes: float32 (K, 4), x1, y1, x2, y2 in pixels of the image.
        scores: float32 (K,), 0 to 1.
        labels: int64 (K,), class indices.
        masks: bool (K, H, W), of detectors that find masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    def save(self, path: str | Path, score: float = 0.3, most: int = 100) -> Path:
        """See :meth:`Result.save`; drawn are at most so many objects with at least this score."""
        path = self._checked(path)
        if path.suffix.lower() == ".json":
            return super().save(path)
        write_image(path, self.draw(score, most))
        return path

    def above(self, score: float, most: int | None = None) -> Detections:
        """Those with at least this score, and of them at most so many."""
        chosen = np.flatnonzero(self.scores >= score)[:most]
        parts = {name: getattr(self, name)[chosen] for name in ("boxes", "scores", "labels")}
        masks = None if self.masks is None else self.masks[chosen]
        return type(self)(**{**vars(self), **parts, "masks": masks})

    def draw(self, score: float = 0.3, most: int = 100) -> np.ndarray:
        """The image with its best objects."""
        best = self.above(score, most)
        objects = Objects(best.boxes, best.labels, best.scores, best.masks)
        return draw_detections(self.image, objects, np.asarray(self.palette) / 255, self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """For each object ``class``, ``category_id``, ``score``, ``bbox`` (x, y, width, height) and, of detectors with
        masks, ``segmentation`` (COCO's compressed run lengths).
        """
        codes: Sequence[Any] = [None] * len(self)
        if self.masks is not None:
            codes = encode_masks(torch.from_numpy(self.masks))
        found = []
        for (x1, y1, x2, y2), label, score, code in zip(*map(_listed, (self.boxes, self.labels, self.scores)), codes):
            row = {"class": self.classes[label], "category_id": self.category_ids[label], "score": score}
            row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            found.append(row if code is None else {**row, "segmentation": code})
        return found

    def to_dict(self) -> dict[str, Any]:
        """Name, size and the objects, see :meth:`rows`."""
        return {"name": self.name, "size": list(self.size), "objects": self.rows()}

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """See :meth:`Result.to_coco`; boxes, and masks where there are any."""
        return [
            {"image_id": image_id, **{key: value for key, value in row.items() if key != "class"}}
            for row in self.rows()
        ]


@dataclass(kw_only=True)
class Classification(Result):
    """The best classes of an image.

    Attributes:
        labels: int64 (k,), class indices, best first.
        scores: float32 (k,), their probabilities.
        probabilities: float32 (classes,), of all classes, where they were asked for.
    """

    labels: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        """The best classes."""
        return [self.classes[label] for label in self.labels.tolist()]

    def draw(self) -> np.ndarray:
        """The image with its best classes below it."""
        from PIL import Image, ImageDraw, ImageFont

        image, font = self.image, ImageFont.load_default(16)
        lines = [f"{name} {score:.2f}" for name, score in zip(self.names, _listed(self.scores))]
        width = max(image.shape[1], *(int(font.getlength(line)) + 16 for line in lines))
        sheet = Image.new("RGB", (width, image.shape[0] + 22 * len(lines) + 8), "white")
        sheet.paste(Image.fromarray(image))
        canvas = ImageDraw.Draw(sheet)
        for number, line in enumerate(lines):
            canvas.text((8, image.shape[0] + 4 + 22 * number), line, fill="black", font=font)
        return np.asarray(sheet)

    def to_dict(self) -> dict[str, Any]:
        """Name, and the best classes with their scores."""
        return {"name": self.name, "classes": self.names, "scores": _listed(self.scores)}

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """A row for each of the best classes, with ``image_id``, ``category_id`` and ``score``."""
        return [
            {"image_id": image_id, "category_id": self.category_ids[label], "score": score}
            for label, score in zip(_listed(self.labels), _listed(self.scores))
        ]


def _listed(array: np.ndarray) -> list[Any]:
    return array.tolist()
