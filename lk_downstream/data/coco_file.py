"""Reads files of COCO's annotation format, and says in a sentence what is wrong with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream import trust
from lk_downstream.data.box_formats import BoxFormat, corners, other_forms
from lk_downstream.errors import InputError, some


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of 64 bits; 3.0, which other tools write for 3, is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -(2**63) <= value < 2**63 and value == int(value)


def is_box(value: Any) -> bool:
    """Whether a value is a list of four finite numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and abs(value) < 1e100  # False for NaN


CHECKS = {
    "id": (is_whole, "a whole number"),
    "image_id": (is_whole, "a whole number"),
    "category_id": (is_whole, "a whole number"),
    "height": (lambda value: is_whole(value) and value > 0, "a number of pixels"),
    "width": (lambda value: is_whole(value) and value > 0, "a number of pixels"),
    "bbox": (is_box, "[x, y, width, height]"),
    "area": (lambda value: value is None or is_number(value), "a number"),
    "iscrowd": (lambda value: value is None or value in (0, 1), "0 or 1"),
    "ignore": (lambda value: value is None or value in (0, 1), "0 or 1"),
}


def load_content(
    path: Path, images: Sequence[str] = (), annotations: Sequence[str] = (), box_format: BoxFormat = "xywh"
) -> tuple[dict[str, Any], list[str]]:
    """Reads and checks an annotation file, see `checked`.

    Args:
        path: The file.
        images: Keys that images must have.
        annotations: Keys that annotations must have.
        box_format: What their ``bbox`` holds.

    Raises:
        InputError: The file is missing or no COCO annotation file.
    """
    try:
        content = trust.read_json(path)
    except OSError as error:
        raise InputError(f"cannot read the annotation file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no COCO annotation file: it is not JSON ({error})") from error
    return checked(path, content, images, annotations, box_format)


def checked(
    name: str | Path,
    content: Any,
    images: Sequence[str] = (),
    annotations: Sequence[str] = (),
    box_format: BoxFormat = "xywh",
) -> tuple[dict[str, Any], list[str]]:
    """The content of an annotation file in COCO's own form, all but the outlines of its objects checked.

    What tools write otherwise is brought to that form: files of test sets have no ``annotations``; Roboflow's begin
    with a category that stands for all others; annotations of images or categories that are not listed do not count,
    as in pycocotools; boxes are of the ``box_format``.

    Args:
        name: Of the file, for the messages.
        content: What it holds; not changed.
        images: Keys that images must have beside their ``id``.
        annotations: Keys that annotations must have beside ``image_id`` and ``category_id``. Their ids may be anything,
            see `annotation_ids`.
        box_format: What their ``bbox`` holds.

    Returns:
        The content, and a sentence for each thing that was left out.

    Raises:
        InputError: It is not COCO's format, a value is of the wrong kind, an id stands twice, or the boxes are of
            another form.
    """
    notes = []
    if isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" not in content:
        notes.append(f"{name} has no annotations, as the files of test sets: results are written, and no metrics")
        content = {**content, "annotations": []}
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise InputError(f"{name} is no COCO annotation file: it has no list {' and no list '.join(missing)}")
    _check_rows(name, "images", content["images"], ("id", *images))
    _check_rows(name, "annotations", content["annotations"], ("image_id", "category_id", *annotations))
    for row in content["images"]:
        if "height" in row and "width" in row:
            trust.check_pixels(f"{name}: image {row['id']}", int(row["width"]), int(row["height"]))
    _unique(name, "image", [row["id"] for row in content["images"]])
    kinds, rows = content["categories"], content["annotations"]
    root = root_category(kinds)
    if root is not None and all(row["category_id"] != root for row in rows):
        kinds = [kind for kind in kinds if kind["id"] != root]
    known = categories(name, kinds)
    for key, listed, lists in (
        ("image_id", {row["id"] for row in content["images"]}, "images"),
        ("category_id", known, "categories"),
    ):
        stray = [(number, row) for number, row in enumerate(rows) if row[key] not in listed]
        if len(stray) == len(rows) > 0:
            raise InputError(
                f"{name}: no annotation has {'an' if key[0] == 'i' else 'a'} {key} that {lists} lists (it lists "
                f"{some(listed)}; the annotations have {some({row[key] for _, row in stray})}): mend the ids"
            )
        if stray:
            ids = some(row.get("id", number) for number, row in stray)
            values = some(dict.fromkeys(row[key] for _, row in stray))
            notes.append(
                f"{name}: {len(stray)} annotations have the {key} {values}, which {lists} does not list, and were left "
                f"out (ids {ids})"
            )
            rows = [row for row in rows if row[key] in listed]
    rows = _with_boxes(name, content["images"], rows, box_format)
    return {**content, "categories": kinds, "annotations": rows}, notes


def _with_boxes(
    name: str | Path, images: list[dict[str, Any]], rows: list[dict[str, Any]], box_format: BoxFormat
) -> list[dict[str, Any]]:
    """The annotations with boxes of COCO's form."""
    sizes = {row["id"]: (row["width"], row["height"]) for row in images if "height" in row and "width" in row}
    boxed = [number for number, row in enumerate(rows) if "bbox" in row and row["image_id"] in sizes]
    if not boxed:
        return rows
    boxes = np.array([rows[number]["bbox"] for number in boxed], dtype=np.float64)
    around = np.array([sizes[rows[number]["image_id"]] for number in boxed], dtype=np.float64)
    if box_format == "xywh":
        if forms := other_forms(boxes, around):
            what = "fractions of their image" if forms[0].startswith("relative_") else "two opposite corners"
            raise InputError(
                f"{name}: the boxes are no [x, y, width, height] in pixels but {what}, such as "
                f"{rows[boxed[0]]['bbox']}: set data.dataset.box_format to {' or '.join(forms)}"
            )
        return rows
    found = corners(boxes, around, box_format)
    found[:, 2:] -= found[:, :2]
    converted = list(rows)
    for number, box in zip(boxed, found.tolist()):
        converted[number] = {**rows[number], "bbox": box}
    return converted


def root_category(rows: list[Any]) -> int | None:
    """The id of a category that stands for all others, as Roboflow puts it first; None if there is none."""
    keys = {"id", "name", "supercategory"}
    if len(rows) < 2 or not all(isinstance(row, dict) and keys <= row.keys() for row in rows):
        return None
    tops = [row for row in rows if row["supercategory"] in ("none", "", None)]
    alone = len(tops) == 1 and all(row is tops[0] or row["supercategory"] == tops[0]["name"] for row in rows)
    return tops[0]["id"] if alone else None


def annotation_ids(rows: list[dict[str, Any]]) -> tuple[list[int], bool]:
    """The ids of annotations, and whether they are the file's own.

    Nothing refers to them, so that tools write what they like: the same in two files that are then joined, 0, texts,
    none. If they are not different whole numbers, they are counted from 1.
    """
    ids = [row.get("id") for row in rows]
    if all(map(is_whole, ids)) and len(set(ids)) == len(ids):
        return [int(number) for number in ids], True
    return list(range(1, len(rows) + 1)), False


def is_crowd(row: dict[str, Any]) -> bool:
    """Whether an annotation is a region that counts neither as found nor as missed.

    ``ignore``, which VOC's and mmdetection's files have, means the same as ``iscrowd``.
    """
    return bool(row.get("iscrowd") or row.get("ignore"))


def categories(name: str | Path, rows: list[Any]) -> dict[int, str]:
    """Names by rising category id.

    Raises:
        InputError: There are none, or an entry is wrong, or an id or a name stands twice.
    """
    _check_rows(name, "categories", rows, ("id", "name"))
    if not rows:
        raise InputError(f"{name} lists no categories: the classes to detect")
    _unique(name, "category", [row["id"] for row in rows])
    _unique(name, "category name", [str(row["name"]) for row in rows])
    return {int(row["id"]): str(row["name"]) for row in sorted(rows, key=lambda row: row["id"])}


def _check_rows(name: str | Path, kind: str, rows: list[Any], keys: Sequence[str]) -> None:
    for number, row in enumerate(rows):
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            known = f" (id {row['id']!r:.60})" if isinstance(row, dict) and "id" in row else ""
            raise InputError(f"{name}: entry {number} of {kind}{known} has no {' and no '.join(missing)}")
        own = kind == "annotations"
        for key, (valid, wanted) in CHECKS.items():
            if key in row and not valid(row[key]) and not (own and key == "id"):
                entry = f"annotation {row['id']!r:.60}" if own and "id" in row else f"entry {number} of {kind}"
                raise InputError(f"{name}: {entry} has the {key} {row[key]!r:.60}, which is not {wanted}")


def _unique(name: str | Path, what: str, values: list[Any]) -> None:
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        twice = next(value for value in values if value in seen or seen.add(value))
        raise InputError(f"{name} has the {what} {twice} twice")
