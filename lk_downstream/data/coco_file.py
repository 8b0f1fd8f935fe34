"""Reads files of COCO's annotation format, and says in a sentence what is wrong with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lk_downstream import trust
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


def load_content(path: Path, images: Sequence[str] = (), annotations: Sequence[str] = ()) -> dict[str, Any]:
    """Reads and checks an annotation file.

    Args:
        path: The file.
        images: Keys that pictures must have, see `check_content`.
        annotations: Keys that annotations must have.

    Raises:
        InputError: The file is missing or no COCO annotation file, see `check_content`.
    """
    try:
        content = trust.read_json(path)
    except OSError as error:
        raise InputError(f"cannot read the annotation file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no COCO annotation file: it is not JSON ({error})") from error
    check_content(path, content, images, annotations)
    return content


def check_content(name: str | Path, content: Any, images: Sequence[str] = (), annotations: Sequence[str] = ()) -> None:
    """Checks the content of an annotation file, all but the outlines of its objects.

    Args:
        name: Of the file, for the messages.
        content: What it holds.
        images: Keys that pictures must have beside their ``id``.
        annotations: Keys that annotations must have beside ``image_id`` and ``category_id``. Their ids may be anything,
            see `annotation_ids`.

    Raises:
        InputError: It is not COCO's format, a value is of the wrong kind, an id stands twice, or an annotation names a
            picture or a category that the file does not list.
    """
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise InputError(f"{name} is no COCO annotation file: it has no list {' and no list '.join(missing)}")
    known = categories(name, content["categories"])
    _check_rows(name, "images", content["images"], ("id", *images))
    _check_rows(name, "annotations", content["annotations"], ("image_id", "category_id", *annotations))
    for row in content["images"]:
        if "height" in row and "width" in row:
            trust.check_pixels(f"{name}: picture {row['id']}", int(row["width"]), int(row["height"]))
    pictures = {row["id"] for row in content["images"]}
    for number, row in enumerate(content["annotations"]):
        if row["image_id"] not in pictures:
            raise InputError(
                f"{name}: annotation {row.get('id', number)} is of image_id {row['image_id']}, which images lacks"
            )
        if row["category_id"] not in known:
            raise InputError(
                f"{name}: annotation {row.get('id', number)} has category_id {row['category_id']}, which categories "
                f"does not list (it has {some(known)}): add the category or remove the annotation"
            )
    _unique(name, "picture", [row["id"] for row in content["images"]])


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
