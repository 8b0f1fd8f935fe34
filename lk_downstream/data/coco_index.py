"""What a COCO annotation file holds: checked once, kept in arrays, so that loader processes share it."""

from __future__ import annotations

import json
import marshal
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lk_downstream import trust
from lk_downstream.data.coco_file import annotation_ids, categories, is_crowd, load_content, root_category
from lk_downstream.errors import InputError, some

FARTHEST = 1e6  # pixels: pycocotools draws polygons beyond any border, until the memory is full
CROWDS = (
    "are crowds (iscrowd 1, as CVAT's brush marks every object), which detectors do not learn and AP does not count: "
    "set iscrowd to 0 if they are single objects"
)
MOST_POLYGONS = 10_000  # of an object: drawing them takes a time that grows with the square of their number
BEYOND = 1.0  # pixels: COCO's own boxes, rounded to 1/100, may end a little beyond their picture


@dataclass
class CocoIndex:
    """The content of an annotation file.

    Attributes:
        path: The file.
        categories: Names by category id, in the order of the labels 0, 1, and so on: by rising id.
        image_ids: Of the pictures, rising.
        files: Their names, below the folder of the pictures.
        sizes: int64, (N, 2), their heights and widths.
        first: int64, (N + 1,): picture i has the objects ``first[i]`` to ``first[i + 1] - 1``.
        ids: int64, (M,), ids of the objects' annotations, see `annotation_ids`.
        labels: int64, (M,).
        boxes: float64, (M, 4), x1, y1, x2, y2 in pixels, within the picture.
        crowd: bool, (M,).
        outlines: Polygons or run lengths of the objects, or nothing where there are none, as one row of bytes.
        ends: int64, (M + 1,): where those of each object begin and end.
        notes: What was mended or left out, one sentence each.
    """

    path: Path
    categories: dict[int, str]
    image_ids: list[int]
    files: list[str]
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
        return np.diff(self.ends) == len(marshal.dumps(None))

    def masks(self, image: int) -> Tensor:
        """Masks uint8 (G, H, W) of all objects of picture number ``image``.

        Raises:
            InputError: An object has no outline, or one that is broken.
        """
        height, width = self.sizes[image].tolist()
        masks = torch.zeros(self.first[image + 1] - self.first[image], height, width, dtype=torch.uint8)
        for mask, number in zip(masks, range(self.first[image], self.first[image + 1])):
            outline = marshal.loads(self.outlines[self.ends[number] : self.ends[number + 1]].tobytes())
            try:
                mask[:] = torch.from_numpy(decode_outline(outline, height, width))
            except ValueError as error:
                raise InputError(f"{self.path}: annotation {self.ids[number]} {error}") from None
        return masks


def parse_outline(outline: Any, height: int, width: int) -> list[list[float]] | np.ndarray:
    """COCO's ``segmentation`` as polygons x1, y1, x2, y2, and so on, or as run lengths int64, checked but not drawn.

    Raises:
        ValueError: It is neither, or of another size; the message goes on from "annotation 7 ".
    """
    if not outline:
        raise ValueError("has no segmentation: set data.masks to false, or score boxes (bbox) alone")
    if isinstance(outline, list):
        try:
            points = [np.asarray(part, dtype=np.float64) for part in outline]
        except (TypeError, ValueError, OverflowError):
            points = []
        if not points or any(part.ndim != 1 for part in points):
            raise ValueError("has a segmentation that is no list of polygons [x1, y1, x2, y2, and so on]")
        parts = [part for part in points if len(part) >= 6 and len(part) % 2 == 0]
        if not parts:
            raise ValueError("has a segmentation without a polygon of three points or more")
        if not all((abs(part) < FARTHEST).all() for part in points):
            raise ValueError("has a polygon whose points are no pixels")
        most = trust.limit(trust.MAX_PIXELS) / 64  # pycocotools takes about 100 bytes a pixel of the outline
        if len(parts) > MOST_POLYGONS or (_longest(parts) > most and (length := sum(map(_length, parts))) > most):
            what = f"{len(parts)} polygons" if len(parts) > MOST_POLYGONS else f"{length:.0f} pixels"
            raise ValueError(f"has an outline of {what}, which takes too much memory or time to draw: simplify it")
        return [part.tolist() for part in parts]
    if not isinstance(outline, dict) or not {"counts", "size"} <= outline.keys():
        raise ValueError("has a segmentation that is neither polygons nor run lengths (counts and size)")
    counts, size = outline["counts"], outline["size"]
    if size != [height, width]:
        raise ValueError(f"has run lengths of the size {size} in a picture of [{height}, {width}]")
    try:
        runs = np.asarray(counts if isinstance(counts, list) else run_lengths(counts), dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        runs = np.array([-1])
    # Each run by itself: the sum of large ones could wrap around.
    if runs.ndim != 1 or (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"has broken run lengths: they do not fill {height} x {width} pixels")
    return runs


def _longest(polygons: list[np.ndarray]) -> float:
    """A length that the outlines of polygons cannot exceed, which costs less than the true one."""
    return sum(len(part) * np.abs(part).max() for part in polygons)


def _length(polygon: np.ndarray) -> float:
    """Length of the outline that pycocotools walks along, in pixels."""
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def decode_outline(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask uint8 (H, W) of COCO's ``segmentation``: polygons, run lengths as numbers, or compressed ones.

    Raises:
        ValueError: See `parse_outline`.
    """
    parsed = parse_outline(outline, height, width)
    if isinstance(parsed, list):
        from pycocotools import mask as rle

        return rle.decode(rle.merge(rle.frPyObjects(parsed, height, width)))
    # Written out here: the library's decoder trusts its input and leaves memory unset.
    return np.repeat(np.arange(len(parsed)) % 2, parsed).astype(np.uint8).reshape(width, height).T


def run_lengths(code: str | bytes) -> list[int]:
    """The numbers of COCO's compressed run lengths: 5 bits a character, later ones as differences.

    Raises:
        ValueError: It is no such code.
    """
    text = code.encode() if isinstance(code, str) else bytes(code)
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:  # no longer than a number of 64 bits
            raise ValueError
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError
    return runs


def make_index(path: str | Path, content: dict[str, Any], notes: Sequence[str] = ()) -> CocoIndex:
    """The index of what an annotation file holds.

    Boxes that reach beyond their picture are clipped to it. Objects are left out if their box, clipped, is narrower or
    lower than a pixel (also: of negative size, or outside the picture), or if all of their polygons have fewer than
    three points. Both are counted in ``notes``.

    Args:
        path: The file, for the messages.
        content: Of :func:`lk_downstream.data.coco_file.checked`.
        notes: What was left out of it.
    """
    path, notes = Path(path), list(notes)
    known = categories(path, content["categories"])
    images = sorted(content["images"], key=lambda row: row["id"])
    image_ids = [int(row["id"]) for row in images]
    numbers = {image_id: number for number, image_id in enumerate(image_ids)}
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
    outlines = [marshal.dumps(rows[number].get("segmentation") or None) for number in kept]
    labels = {category: label for label, category in enumerate(known)}
    return CocoIndex(
        path=path,
        categories=known,
        image_ids=image_ids,
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


def read_categories(path: str | Path) -> dict[int, str]:
    """Names by rising category id, without parsing the rest of the file where its text allows that.

    Raises:
        InputError: See :func:`lk_downstream.data.coco_file.load_content`.
    """
    path = Path(path)
    rows = _list_of(path, b"categories")
    if rows is None or root_category(rows) is not None:  # which only the annotations tell from an ordinary one
        rows = load_content(path)[0]["categories"]
    return categories(path, rows)


def read_image_ids(path: str | Path) -> dict[str, int]:
    """Ids by the names of the images, of a file whose other parts may be anything, and mostly are not parsed.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has no list of images with a name and an id of their own.
    """
    path = Path(path)
    rows = _list_of(path, b"images")
    if rows is None:
        content = trust.read_json(path)
        rows = content.get("images") if isinstance(content, dict) else None
    try:
        found = {str(row["file_name"]): int(row["id"]) for row in rows}
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError("it lists no images with file_name and id") from error
    if len(set(found.values())) < len(rows):
        raise ValueError("it has images of one file_name or id")
    return found


def _list_of(path: Path, key: bytes) -> list[Any] | None:
    """A list of objects without lists in them, found by its text alone; None: it is not found so."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = re.search(rb'"%s"\s*:\s*(\[\s*\{[^\[\]]*\}\s*\])' % key, text)
            return json.loads(found[1]) if found else None
    except (OSError, ValueError, RecursionError):
        return None


def _boxes(path: Path, rows: list[dict[str, Any]], ids: np.ndarray, sizes: np.ndarray):
    """Boxes x1, y1, x2, y2 within pictures of the ``sizes`` (w, h), which of them to keep, and notes."""
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    limits = np.tile(sizes, 2)
    beyond = ((boxes < -BEYOND) | (boxes > limits + BEYOND)).any(1)
    clipped = np.clip(boxes, 0, limits)
    kept = (clipped[:, 2:] - clipped[:, :2] >= 1).all(1)
    notes = []
    if (beyond & kept).any():
        notes.append(_note(path, ids[beyond & kept], "reach beyond their picture and were clipped to it"))
    if not kept.all():
        notes.append(_note(path, ids[~kept], "have a box of less than a pixel in their picture and were left out"))
    return clipped, kept, notes


def _pointless(outline: Any) -> bool:
    """Whether all of an outline's polygons have fewer than three points."""
    polygons = isinstance(outline, list) and all(isinstance(part, list) for part in outline)
    if not polygons or not outline:
        return False
    return all(len(part) < 6 and not any(isinstance(point, list) for point in part) for part in outline)


def _note(path: Path, ids: np.ndarray, what: str) -> str:
    return f"{path}: {len(ids)} annotations {what} (ids {some(ids.tolist())})"
