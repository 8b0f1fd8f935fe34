"""What a COCO annotation file holds: checked once, kept in arrays, so that loader processes share it."""

from __future__ import annotations

import json
import marshal
import mmap
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from lk_downstream.errors import InputError

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
        ids: int64, (M,), ids of the objects' annotations.
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


def decode_outline(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask uint8 (H, W) of COCO's ``segmentation``: polygons, run lengths as numbers, or compressed ones.

    Raises:
        ValueError: It is none of these, or of another size; the message goes on from "annotation 7 ".
    """
    if not outline:
        raise ValueError("has no segmentation: set data.masks to false to train on boxes alone")
    if isinstance(outline, list):
        parts = [part for part in outline if isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0]
        if not parts:
            raise ValueError("has a segmentation without a polygon of three points or more")
        return rle.decode(rle.merge(rle.frPyObjects(parts, height, width)))
    if not isinstance(outline, dict) or not {"counts", "size"} <= outline.keys():
        raise ValueError("has a segmentation that is neither polygons nor run lengths (counts and size)")
    if list(outline["size"]) != [height, width]:
        raise ValueError(f"has run lengths of the size {outline['size']} in a picture of [{height}, {width}]")
    counts = outline["counts"]
    try:
        runs = np.asarray(counts if isinstance(counts, list) else run_lengths(counts), dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        runs = np.array([-1])
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"has broken run lengths: they do not fill {height} x {width} pixels")
    # Written out here: the library's decoder trusts its input and leaves memory unset.
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(width, height).T


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
        if not 0 <= bits < 64:
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


def read_index(path: str | Path) -> CocoIndex:
    """Read and check an annotation file.

    Boxes that reach beyond their picture are clipped to it. Objects are left out if their box, clipped, is narrower or
    lower than a pixel (also: of negative size, or outside the picture), or if all of their polygons have fewer than
    three points. Both are counted in ``notes``.

    Raises:
        InputError: The file is missing or no COCO annotation file, an id stands twice, or an annotation names a picture
            or a category that the file does not list, or has no box of four numbers.
    """
    path = Path(path)
    content = _load(path)
    categories = _categories(path, content["categories"])
    images = sorted(_rows(path, content, "images", ("id", "file_name", "height", "width")), key=lambda row: row["id"])
    image_ids = [row["id"] for row in images]
    _unique(path, "picture", image_ids)
    numbers = {image_id: number for number, image_id in enumerate(image_ids)}
    sizes = np.array([(row["height"], row["width"]) for row in images], dtype=np.int64).reshape(-1, 2)
    rows = list(_rows(path, content, "annotations", ("id", "image_id", "category_id", "bbox")))
    for row in rows:
        if row["image_id"] not in numbers:
            raise InputError(f"{path}: annotation {row['id']} is of image_id {row['image_id']}, which images lacks")
        if row["category_id"] not in categories:
            raise InputError(
                f"{path}: annotation {row['id']} has category_id {row['category_id']}, which categories does not list "
                f"(it has {_some(categories)}): add the category or remove the annotation"
            )
    rows.sort(key=lambda row: row["image_id"])
    _unique(path, "annotation", [row["id"] for row in rows])
    owner = np.array([numbers[row["image_id"]] for row in rows], dtype=np.int64)
    ids = np.array([row["id"] for row in rows], dtype=np.int64)
    boxes, kept, notes = _boxes(path, rows, ids, sizes[owner][:, ::-1])
    pointless = np.array([_pointless(row.get("segmentation")) for row in rows], dtype=bool) & kept
    if pointless.any():
        notes.append(_note(path, ids[pointless], "have polygons of fewer than three points alone and were left out"))
        kept &= ~pointless
    kept = np.flatnonzero(kept)
    outlines = [marshal.dumps(rows[number].get("segmentation") or None) for number in kept]
    labels = {category: label for label, category in enumerate(categories)}
    return CocoIndex(
        path=path,
        categories=categories,
        image_ids=image_ids,
        files=[str(row["file_name"]) for row in images],
        sizes=sizes,
        first=np.searchsorted(owner[kept], np.arange(len(images) + 1)),
        ids=ids[kept],
        labels=np.array([labels[rows[number]["category_id"]] for number in kept], dtype=np.int64),
        boxes=boxes[kept],
        crowd=np.array([bool(rows[number].get("iscrowd", 0)) for number in kept], dtype=bool),
        outlines=np.frombuffer(b"".join(outlines), dtype=np.uint8),
        ends=np.cumsum([0, *map(len, outlines)]),
        notes=notes,
    )


def read_categories(path: str | Path) -> dict[int, str]:
    """Names by rising category id, without parsing the rest of the file where its text allows that.

    Raises:
        InputError: See :func:`read_index`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = re.search(rb'"categories"\s*:\s*(\[\s*\{[^\[\]]*\}\s*\])', text)
            rows = json.loads(found[1]) if found else None
    except (OSError, ValueError):
        rows = None
    return _categories(path, _load(path)["categories"] if rows is None else rows)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the annotation file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no COCO annotation file: it is not JSON ({error})") from error
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise InputError(f"{path} is no COCO annotation file: it has no list {' and no list '.join(missing)}")
    return content


def _rows(path: Path, content: dict[str, Any], name: str, keys: Sequence[str]) -> Iterable[dict[str, Any]]:
    for number, row in enumerate(content[name]):
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            known = f" (id {row['id']})" if isinstance(row, dict) and "id" in row else ""
            raise InputError(f"{path}: entry {number} of {name}{known} has no {' and no '.join(missing)}")
        yield row


def _categories(path: Path, rows: list[Any]) -> dict[int, str]:
    rows = list(_rows(path, {"categories": rows}, "categories", ("id", "name")))
    if not rows:
        raise InputError(f"{path} lists no categories: the classes to detect")
    _unique(path, "category", [row["id"] for row in rows])
    _unique(path, "category name", [row["name"] for row in rows])
    return {row["id"]: str(row["name"]) for row in sorted(rows, key=lambda row: row["id"])}


def _unique(path: Path, what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        twice = next(value for value in values if value in seen or seen.add(value))
        raise InputError(f"{path} has the {what} {twice} twice")


def _boxes(path: Path, rows: list[dict[str, Any]], ids: np.ndarray, sizes: np.ndarray):
    """Boxes x1, y1, x2, y2 within pictures of the ``sizes`` (w, h), which of them to keep, and notes."""
    for row in rows:
        box = row["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            raise InputError(f"{path}: annotation {row['id']} has the bbox {box}, which is not [x, y, width, height]")
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        wrong = ids[~np.isfinite(boxes).all(1)][0]
        raise InputError(f"{path}: annotation {wrong} has a bbox that is not finite")
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
    return isinstance(outline, list) and len(outline) > 0 and all(len(part) < 6 for part in outline)


def _note(path: Path, ids: np.ndarray, what: str) -> str:
    return f"{path}: {len(ids)} annotations {what} (ids {_some(ids.tolist())})"


def _some(values: Iterable[Any], count: int = 5) -> str:
    values = list(values)
    return ", ".join(map(str, values[:count])) + (", ..." if len(values) > count else "")
