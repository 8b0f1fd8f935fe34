"""Labels of ImageNet's validation images where these lie in one folder, as Kaggle and the authors distribute them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lk_downstream import trust
from lk_downstream.errors import InputError

_WNID = re.compile(r"n\d{8}")


def read_labels(path: Path, names: Sequence[str], wnids: Sequence[str], synsets: Path | None = None) -> list[str]:
    """The WordNet id of each image.

    Args:
        path: ``LOC_val_solution.csv`` (Kaggle); or a file with ``NAME`` and a label a line, a WordNet id or the number
            of the class from 0 in their order (``val.txt``); or one with a WordNet id a line, in the order of the
            names; or ``ILSVRC2012_validation_ground_truth.txt``, of numbers of the authors' own, with ``synsets``.
        names: File names of the images.
        wnids: All classes, sorted.
        synsets: A file that gives a WordNet id and the authors' number a line, as their ``map_clsloc.txt``.

    Raises:
        InputError: A file cannot be read, is none of these, or lacks an image.
    """
    rows = [line.replace(",", " ").split() for line in _lines(path)]
    rows = [row for row in rows if row[0] != "ImageId"]
    single = all(len(row) == 1 for row in rows)
    if single and len(rows) != len(names):
        raise InputError(f"{path} has {len(rows)} lines for {len(names)} images: a label for each in their order")
    if single and all(row[0].isdigit() for row in rows):
        numbers = _authors_numbers(path, synsets)
        labels = [numbers.get(row[0], "") for row in rows]
    elif single:
        labels = [row[0] for row in rows]
    else:
        by_stem = {os.path.splitext(os.path.basename(row[0]))[0]: row[1] if len(row) > 1 else "" for row in rows}
        lacking = [name for name in names if os.path.splitext(os.path.basename(name))[0] not in by_stem]
        if lacking:
            raise InputError(f"{path} has no label for {len(lacking)} of {len(names)} images, such as {lacking[0]}")
        labels = [by_stem[os.path.splitext(os.path.basename(name))[0]] for name in names]
        labels = [wnids[int(label)] if label.isdigit() and int(label) < len(wnids) else label for label in labels]
    known = set(wnids)
    if wrong := next((label for label in labels if label not in known), None):
        raise InputError(f"{path} has the label {wrong!r}, which is none of the {len(wnids)} classes")
    if "" in labels:
        raise InputError(f"{path} has no label, or one that {synsets} lacks, for {names[labels.index('')]}")
    return labels


def _authors_numbers(path: Path, synsets: Path | None) -> dict[str, str]:
    """WordNet id by the authors' number (ILSVRC2012_ID), which is not in the order of the ids."""
    if synsets is None:
        raise InputError(
            f"{path} has the authors' own numbers: set synsets to a file with a WordNet id and its number a line, as "
            "their map_clsloc.txt"
        )
    rows = [line.split() for line in _lines(synsets)]
    if not all(_WNID.fullmatch(row[0]) for row in rows):
        raise InputError(f"{synsets} is no list of synsets: each line begins with a WordNet id, such as n02119789")
    ids = [row[0] for row in rows]
    if all(len(row) > 1 and row[1].isdigit() for row in rows):
        return {row[1]: row[0] for row in rows}
    if ids == sorted(ids):
        raise InputError(
            f"{synsets} is in the order of the WordNet ids, which is not that of the numbers in {path}: give the "
            "authors' map_clsloc.txt, or the solutions of Kaggle (LOC_val_solution.csv) as labels"
        )
    return {str(number): wnid for number, wnid in enumerate(ids, 1)}


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in trust.read_bytes(path).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the labels in {path} ({getattr(error, 'strerror', None) or error})") from error
    if not any(lines):
        raise InputError(f"{path} is empty")
    return [line for line in lines if line]
