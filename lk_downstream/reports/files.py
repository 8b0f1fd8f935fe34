"""Files of a run, as tables, data and images: complete, or not there."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream.errors import InputError


def write_table(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file so that ``path`` never holds an incomplete one; NaN is an empty cell, and so is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        writer.writerows([_shown(value) for value in row] for row in rows)
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` (NaN as null) so that ``path`` never holds an incomplete file."""
    write_text(path, json.dumps(_without_nan(content), indent=2) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write a text in UTF-8 so that ``path`` never holds an incomplete file; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)
    return path


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (height, width) or (height, width, 3) as PNG so that ``path`` never holds an incomplete file."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.stem + ".part" + path.suffix)
    Image.fromarray(image).save(part)
    part.replace(path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array of numbers in NumPy's format so that ``path`` never holds an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)
    part.replace(path)


def read_part(folder: Path, name: str, reader: Callable[[Path], Any]) -> Any:
    """What ``reader`` finds in a file of a run; None: there is none.

    Raises:
        InputError: It is damaged.
    """
    try:
        return reader(folder / name)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, csv.Error, OSError) as error:
        raise InputError(f"{folder / name} is damaged ({error}): remove it, and the page does without it") from error


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
