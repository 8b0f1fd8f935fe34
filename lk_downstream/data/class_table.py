"""Images whose labels stand in a table: CSV, or Hugging Face's ``metadata.jsonl``."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lk_downstream import trust
from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.labels import class_names
from lk_downstream.data.pairing import placed
from lk_downstream.errors import InputError, near_names, some

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
LABEL_COLUMNS = ("label", "labels", "class", "classes")
LOOKED_FOR = 200  # files whose absence is noticed at the start


class ClassTable(ClassFolder):
    """Anyone's images with the labels of a table: a CSV file, or ``metadata.jsonl`` of a Hugging Face image folder.

    An item is that of :class:`ClassFolder`. Where images have several labels (``separator``, or lists in JSON) it has
    ``labels``, float32 (classes,) of 0 and 1, in place of ``label``.

    Args:
        split: What ``{split}`` stands for in the options below.
        root: Folder of the data set.
        table: The table below ``root``, ``.csv`` (also with semicolons or tabs) or ``.jsonl``, with a row an image.
        images: Folder below ``root`` to which the table's paths belong (default: that of the table).
        file: Its column of files (default: file, file_name, filename, image or path).
        label: Its column of labels (default: label, labels, class or classes).
        separator: What stands between several labels of an image, such as ``|`` (default: each has one label).
        suffix: What the files end in where the table leaves that out, such as ``.jpg``.
        classes: Names of the classes in the order of their labels, or a text file with one a line; numbers in the table
            then count them from 0 (default: what the table names, sorted).
    """

    def __init__(
        self,
        split: str,
        root: str,
        table: str = "{split}.csv",
        images: str | None = None,
        file: str | None = None,
        label: str | None = None,
        separator: str | None = None,
        suffix: str = "",
        classes: list[str] | str | None = None,
    ):
        super().__init__(split, root, ".")
        self.table = self.root / placed("table", table, split)
        self.folder = self.table.parent if images is None else self.root / placed("images", images, split)
        self.file_column, self.label_column, self.separator, self.suffix = file, label, separator, suffix
        self.given = None if classes is None else class_names(classes, self.root)
        self.known = self.given

    @property
    def source(self) -> Path:
        """The table."""
        return self.table

    @cached_property
    def rows(self) -> list[tuple[str, list[str]]]:
        """File and labels of each image, in the order of the files.

        Raises:
            InputError: The table cannot be read, lacks a column, or gives a file twice or without a label.
        """
        rows = read_table(self.table)
        file = column(self.table, rows[0], self.file_column, FILE_COLUMNS, "file")
        label = column(self.table, rows[0], self.label_column, LABEL_COLUMNS, "label")
        found: dict[str, list[str]] = {}
        for number, row in enumerate(rows, 1):
            name, labels = str(row.get(file) or "").replace("\\", "/"), self._labels(row.get(label))
            if not name or (not labels and not self.multilabel):
                raise InputError(f"{self.table}: row {number} has no {'label' if name else 'file'}: add or remove it")
            if name in found and not self.multilabel:
                raise InputError(
                    f"{self.table} has {name} twice, as {found[name][0]} and {labels[0]}: remove one of the rows, or "
                    "set separator if images have several labels"
                )
            found.setdefault(name, []).extend(labels)
        return sorted(self._by_name(found).items())

    def _by_name(self, found: dict[str, list[str]]) -> dict[str, list[str]]:
        """The same with names of classes for labels that count the classes given."""
        labels = {label for own in found.values() for label in own}
        if not self.given or labels & set(self.given) or not all(map(str.isdecimal, labels)):
            return found
        if wrong := [label for label in labels if int(label) >= len(self.given)]:
            raise InputError(f"{self.table} has the label {max(wrong)}, but counts {len(self.given)} classes from 0")
        return {name: [self.given[int(label)] for label in own] for name, own in found.items()}

    def _labels(self, value: Any) -> list[str]:
        if isinstance(value, list):
            return [str(label) for label in value]
        text = "" if value is None else str(value).strip()
        parts = text.split(self.separator) if self.separator else [text]
        return [part.strip() for part in parts if part.strip()]

    @cached_property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        if self.separator:
            return True
        rows = read_table(self.table) if self.table.suffix == ".jsonl" else []
        return any(isinstance(value, list) for value in _values(rows, self.label_column or LABEL_COLUMNS))

    @cached_property
    def found(self) -> tuple[str, ...]:
        """The labels that the table names, sorted; numbers by their size."""
        labels = {label for _, labels in self.rows for label in labels}
        return tuple(sorted(labels, key=int if all(map(str.isdecimal, labels)) else None))

    @cached_property
    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Path below ``folder`` (bytes) and label of every image, in the order of the paths; labels int32 (N,), or, if
        an image may have several, uint8 (N, classes) of 0 and 1.

        Raises:
            InputError: A label is no class, or a file is missing.
        """
        numbers = {name: number for number, name in enumerate(self.class_folders)}
        paths = [os.fsencode(name + self.suffix) for name, _ in self.rows]
        self._look_for(paths)
        labels = np.zeros((len(paths), len(self.class_folders)), np.uint8)
        for row, (name, own) in zip(labels, self.rows):
            for label in own:
                if label not in numbers:
                    hint = near_names(label, self.class_folders) or f" (they are {some(self.class_folders)})"
                    raise InputError(f"{self.table}: {name} has the label {label!r}, which is no class{hint}")
                row[numbers[label]] = 1
        return np.array(paths, dtype=np.bytes_), labels if self.multilabel else labels.argmax(1).astype("i4")

    def _look_for(self, paths: list[bytes]) -> None:
        """Refuse a table of files of which some are missing, as far as a few of them show that."""
        for at in np.linspace(0, len(paths) - 1, min(LOOKED_FOR, len(paths))).astype(int):
            path = self.folder / os.fsdecode(paths[at])
            if not path.exists():
                near = sorted(path.parent.glob(f"{path.name}.*"))[:1] if path.name.isprintable() else []
                remedy = f"set suffix {near[0].suffix}" if near else "set images to the folder of its files"
                raise InputError(f"{self.table} lists {path.name}, but there is no file {path}: {remedy}")

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        if not self.multilabel:
            return sample
        return {k: v for k, v in sample.items() if k != "label"} | {"labels": torch.from_numpy(sample["label"]).float()}


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file with a header, or of JSON objects, one a line (``.jsonl``).

    Raises:
        InputError: It cannot be read, or has no row.
    """
    try:
        if path.suffix == ".jsonl":
            rows = trust.read_json_lines(path)
        else:
            lines = trust.read_bytes(path).decode("utf-8-sig").splitlines()
            delimiter = max(",;\t", key=(lines or [""])[0].count)
            rows = list(csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True))
    except OSError as error:
        there = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near_names(path.name, there) or ": set table to the file that lists the images"
        raise InputError(f"cannot read the table {path} ({error.strerror or error}){hint}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no table in UTF-8 that can be read ({error})") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} has no rows: a header is followed by a row for each image")
    return rows


def column(path: Path, row: dict[str, Any], wanted: str | None, usual: Iterable[str], option: str) -> str:
    """The name of a column: the one wanted, or the first of the usual ones that there is.

    Raises:
        InputError: There is none.
    """
    names = [name for name in row if isinstance(name, str)]
    for name in [wanted] if wanted else usual:
        if name in names:
            return name
    hint = near_names(wanted or option, names) or f"; it has {some(names)}"
    raise InputError(f"{path} has no column {wanted or ' or '.join(usual)}: set {option} to one of its columns{hint}")


def _values(rows: list[dict[str, Any]], names: str | Iterable[str]) -> Iterable[Any]:
    names = [names] if isinstance(names, str) else names
    return (row[name] for row in rows for name in names if name in row)
