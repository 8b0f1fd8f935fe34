"""Values of mask files and names of classes: what a value means, and which values are wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lk_downstream import trust
from lk_downstream.errors import InputError

IGNORE_INDEX = 255  # the value of unlabelled pixels in every mask that a data set gives
OUTSIDE = 254  # marks a value that belongs to no class, between the look-up and the error


def label_table(
    count: int, ignore_index: int = 255, reduce_zero_label: bool = False, label_map: Mapping[int, int] | None = None
) -> np.ndarray:
    """The class index, 255 (unlabelled) or 254 (no such class) of every value 0..255 of a mask file, uint8, (256,).

    Args:
        count: Number of classes, 1 to 254.
        ignore_index: The value of unlabelled pixels.
        reduce_zero_label: 0 -> 255 and k -> k - 1, after ``label_map``.
        label_map: Replacements of values, of ``ignore_index`` too.

    Raises:
        InputError: An argument is out of its range.
    """
    if not 1 <= count <= OUTSIDE:
        raise InputError(f"classes names {count} classes: give 1 to {OUTSIDE} (masks have 8 bits)")
    if not 0 <= ignore_index <= 255:
        raise InputError(f"ignore_index is {ignore_index}: it is a value of an 8-bit mask, 0 to 255")
    table, unlabelled = np.arange(256), np.zeros(256, bool)
    for old, new in (label_map or {}).items():
        if not (0 <= old <= 255 and 0 <= new <= 255):
            raise InputError(f"label_map has {old}: {new}, but the values of an 8-bit mask are 0 to 255")
        table[old], unlabelled[old] = new, new == IGNORE_INDEX
    if reduce_zero_label:
        unlabelled |= table == 0
        table -= 1
    table[(table < 0) | (table >= count)] = OUTSIDE
    unlabelled[ignore_index] |= ignore_index not in (label_map or {})
    table[unlabelled] = IGNORE_INDEX
    return table.astype(np.uint8)


def file_values(table: np.ndarray, count: int, preferred: Iterable[int] = ()) -> np.ndarray:
    """The value of a mask file that stands for each class index, uint8, (256,): the inverse of :func:`label_table`.

    Where several values stand for a class, it is the first of ``preferred`` among them, otherwise the smallest. Indices
    that no value stands for, and 255, are 255.

    Args:
        table: Class index of every value of a mask file, uint8, (256,).
        count: Number of classes.
        preferred: Values of mask files.
    """
    values = np.full(256, IGNORE_INDEX, dtype=np.uint8)
    for value in reversed([*preferred, *range(256)]):
        if table[value] < count:
            values[table[value]] = value
    return values


def class_names(classes: Sequence[str] | str | os.PathLike | None, root: Path) -> tuple[str, ...]:
    """Names of the classes, given directly or as a text file with one name a line (default: ``root/classes.txt``).

    Raises:
        InputError: The file cannot be read, or a name stands twice.
    """
    source = "classes"
    if classes is None or isinstance(classes, str | os.PathLike):
        if classes is None and not root.is_dir():
            raise InputError(f"there is no folder {root}: set the data set's root to its folder")
        source = path = root / "classes.txt" if classes is None else Path(classes).expanduser()
        try:
            lines = trust.read_text(path).splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"the class names in {path} are not in UTF-8: save the file so") from error
        except OSError as error:
            raise InputError(
                f"cannot read the class names from {path} ({error.strerror}): "
                "write one name a line there, or give the option classes"
            ) from error
        classes = [line.strip() for line in lines if line.strip()]
        if odd := next((name for name in classes if not name.isprintable()), None):
            raise InputError(f"{path} is no list of class names: it has the line {odd!r:.60}")
    if double := {name for name in classes if list(classes).count(name) > 1}:
        raise InputError(f"{source} names {', '.join(sorted(double))} twice: every class needs a name of its own")
    return tuple(classes)


def ranges(values: Iterable[int]) -> str:
    """Sorted values in a short form, such as ``0-3, 7, 255``."""
    runs: list[list[int]] = []
    for value in (int(value) for value in values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
