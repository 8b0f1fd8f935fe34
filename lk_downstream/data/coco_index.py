"""What a COCO annotation file holds: checked once, kept in arrays, so that loader processes share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lk_downstream import kept_arrays
from lk_downstream.data.coco_file import annotation_ids, categories, is_crowd
from lk_downstream.data.coco_outlines import decode_outline, pack_outline, unpack_outline
from lk_downstream.errors import InputError, some

CROWDS = (
    "are crowds (iscrowd 1, as CVAT's brush marks every object), which detectors do not learn and AP does not count: "
    "set iscrowd to 0 if they are single objects"
)
BEYOND = 1.0  # pixels: COCO's own boxes, rounded to 1/100, may end a little beyond their image


@dataclass
class CocoIndex:
    """The content of an annotation file.

    Attributes:
        path: The file.
        categories: Names by category id, in the order of the labels 0, 1, and so on: by rising id.
        image_ids: int64, (N,), of the images, rising.
        files: Their names, below the folder of the images.
        sizes: int64, (N, 2), their heights and widths.
        first: int64, (N + 1,): image i has the objects ``first[i]`` to ``first[i + 1] - 1``.
        ids: int64, (M,), ids of the objects' annotations, see `annotation_ids`.
        labels: int64, (M,).
        boxes: float64, (M, 4), x1, y1, x2, y2 in pixels, within the image.
        crowd: bool, (M,).
        outlines: Polygons or run lengths of the objects, see :func:`pack_outline`, as one row of bytes.
        ends: int64, (M + 1,): where those of each object begin and end.
        notes: What was mended or left out, one sentence each.
    """

    path: Path
    categories: dict[int, str]
    image_ids: np.ndarray
    files: Sequence[str]
    sizes: np.ndarray
    first: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    outlines: np.ndarray
    ends: np.ndarray
    notes: list[str] = field(default_factory=list)

    def bare(self) -> np.ndarray:
        """Which objects have no outline, bool (M,)."""
        return np.diff(self.ends) == 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: kept_arrays.sendable(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: kept_arrays.received(value) for name, value in state.items()})

    def masks(self, image: int) -> Tensor:
        """Masks uint8 (G, H, W) of all objects of image number ``image``.

        Raises:
            InputError: An object has no outline, or one that is broken.
        """
        height, width = self.sizes[image].tolist()
        masks = torch.zeros(self.first[image + 1] - self.first[image], height, width, dtype=torch.uint8)
        for mask, number in zip(masks, range(self.first[image], self.first[image + 1])):
            outline = unpack_outline(self.outlines[self.ends[number] : self.ends[number + 1]].tobytes())
            try:
                mask[:] = torch.from_numpy(decode_outline(outline, height, width))
            except ValueError as error:
                raise InputError(f"{self.path}: annotation {self.ids[number]} {error}") from None
        return masks


def make_index(path: str | Path, content: dict[str, Any], notes: Sequence[str] = ()) -> CocoIndex:
    """The index of what an annotation file holds.

    Boxes that reach beyond their image are clipped to it. Objects are left out if their box, clipped, is narrower or
    lower than a pixel (also: of negative size, or outside the image), or if all of their polygons have fewer than
    three points. Both are counted in ``notes``.

    Args:
        path: The file, for the messages.
        content: Of :func:`lk_downstream.data.coco_file.checked`.
        notes: What was left out of it.
    """
    path, notes = Path(path), list(notes)
    known = categories(path, content["categories"])
    images = sorted(content["images"], key=lambda row: row["id"])
    numbers = {int(row["id"]): number for number, row in enumerate(images)}
    sizes = np.array([(row["height"], row["width"]) for row in images], dtype=np.int64).reshape(-1, 2)
    rows = sorted(content["annotations"], key=lambda row: row["image_id"])
    owner = np.array([numbers[row["image_id"]] for row in rows], dtype=np.int64)
    ids, own = annotation_ids(rows)
    ids = np.array(ids, dtype=np.int64)
    boxes, kept, mended = _boxes(path, rows, ids, sizes[owner][:, ::-1])
    notes += mended
    pointless = np.array([_pointless(row.get("segmentation")) for row in rows], dtype=bool) & kept
    if pointless.any():
        notes.append(_note(path, ids[pointless], "have polygons of fewer than three points alone and were left out"))
        kept &= ~pointless
    if not own:
        notes.append(f"{path}: the ids of the annotations are not different whole numbers, and are counted here")
    crowd = np.array([is_crowd(row) for row in rows], dtype=bool)
    if any(row.get("ignore") for row in rows):
        count = sum(bool(row.get("ignore")) for row in rows)
        notes.append(f"{path}: {count} annotations are to be ignored (ignore 1), and count as crowds (iscrowd 1)")
    if 2 * crowd.sum() > len(crowd):
        notes.append(f"{path}: {crowd.sum()} of {len(crowd)} annotations {CROWDS}")
    kept = np.flatnonzero(kept)
    outlines = [pack_outline(rows[number].get("segmentation")) for number in kept]
    labels = {category: label for label, category in enumerate(known)}
    return CocoIndex(
        path=path,
        categories=known,
        image_ids=np.array(list(numbers), dtype=np.int64),
        files=[str(row["file_name"]) for row in images],
        sizes=sizes,
        first=np.searchsorted(owner[kept], np.arange(len(images) + 1)),
        ids=ids[kept],
        labels=np.array([labels[rows[number]["category_id"]] for number in kept], dtype=np.int64),
        boxes=boxes[kept],
        crowd=crowd[kept],
        outlines=np.frombuffer(b"".join(outlines), dtype=np.uint8),
        ends=np.cumsum([0, *map(len, outlines)]),
        notes=notes,
    )


def _boxes(path: Path, rows: list[dict[str, Any]], ids: np.ndarray, sizes: np.ndarray):
    """Boxes x1, y1, x2, y2 within images of the ``sizes`` (w, h), which of them to keep, and notes."""
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limits = np.tile(sizes, 2)
    beyond = ((boxes < -BEYOND) | (boxes > limits + BEYOND)).any(1)
    clipped = np.clip(boxes, 0, limits)
    kept = (clipped[:, 2:] - clipped[:, :2] >= 1).all(1)
    notes = []
    if (beyond & kept).any():
        notes.append(_note(path, ids[beyond & kept], "reach beyond their image and were clipped to it"))
    if not kept.all():
        notes.append(_note(path, ids[~kept], "have a box of less than a pixel in their image and were left out"))
    return clipped, kept, notes


def _pointless(outline: Any) -> bool:
    """Whether all of an outline's polygons have fewer than three points."""
    polygons = isinstance(outline, list) and all(isinstance(part, list) for part in outline)
    if not polygons or not outline:
        return False
    return all(len(part) < 6 and not any(isinstance(point, list) for point in part) for part in outline)


def _note(path: Path, ids: np.ndarray, what: str) -> str:
    return f"{path}: {len(ids)} annotations {what} (ids {some(ids.tolist())})"
