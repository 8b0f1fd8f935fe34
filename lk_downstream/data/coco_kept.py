"""What a large annotation file holds, kept in files: one process parses the annotation file, and all map these."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lk_downstream import kept_arrays, trust
from lk_downstream.data.coco_index import CocoIndex
from lk_downstream.data.listing import Paths
from lk_downstream.errors import InputError
from lk_downstream.kept_arrays import Arrays

KEEP_FROM = 2**23  # bytes; smaller files are parsed in a third of a second
VERSION = 1  # of these files
NO_STAMP = np.zeros(0, np.uint8)


class Names(Sequence[str]):
    """Names of images, in the bytes of :class:`Paths`."""

    def __init__(self, paths: Paths):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> str:
        return self.paths[index].decode("utf-8", "surrogatepass")


class Kept(NamedTuple):
    """The arrays of a :class:`CocoIndex` of the same names, and those of its other parts.

    Attributes:
        names: See :class:`Paths`.
        name_ends: Likewise.
        text: uint8, the categories and notes, as JSON.
        stamp: uint8, of what the index is: version and check sum of the annotation file.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    outlines: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray
    text: np.ndarray
    stamp: np.ndarray


PARTS = Kept._fields[: Kept._fields.index("names")]


def kept_of(path: Path, prefix: str, option: str, kind: type[Arrays], make: Callable[[], Arrays]) -> Arrays | None:
    """Arrays that were found out of an annotation file: those in the cache folder if the file is still the same, else
    made and kept there. None: the file is small, or cannot be read; then nothing was made.

    A file is the same if all of its bytes are, which takes a second a gigabyte to see.

    Args:
        path: The annotation file.
        prefix: Of the folder's name.
        option: What else the arrays depend on.
        kind: A named tuple of arrays, with one named ``stamp``, which is set here.
        make: Makes it.

    Raises:
        InputError: As ``make``.
    """
    try:
        if trust.size(path) < KEEP_FROM:
            return None
        stamp = np.frombuffer(bytes([VERSION]) + trust.digest(path), np.uint8)
    except (OSError, InputError):
        return None
    key = hashlib.sha256(f"{option}\0".encode() + os.fsencode(path)).hexdigest()[:32]
    folder = kept_arrays.cache_folder() / f"{prefix}-{key}"
    kept = kept_arrays.load_arrays(folder, kind)
    if kept is not None and np.array_equal(kept.stamp, stamp):
        return kept
    made = make()._replace(stamp=stamp)
    try:
        return kept_arrays.keep_arrays(folder, made)
    except OSError:
        return made


def kept_index(path: Path, option: str, make: Callable[[], CocoIndex]) -> CocoIndex:
    """The index of an annotation file, see :func:`kept_of`.

    Raises:
        InputError: As ``make``.
    """
    kept = kept_of(path, "coco", option, Kept, lambda: _to_kept(make()))
    return make() if kept is None else _from_kept(path, kept)


def _to_kept(index: CocoIndex) -> Kept:
    names = Paths.of(name.encode("utf-8", "surrogatepass") for name in index.files)
    text = json.dumps([list(index.categories.items()), index.notes]).encode()
    parts = {name: getattr(index, name) for name in PARTS}
    return Kept(**parts, names=names.names, name_ends=names.ends, text=np.frombuffer(text, np.uint8), stamp=NO_STAMP)


def _from_kept(path: Path, kept: Kept) -> CocoIndex:
    categories, notes = json.loads(kept.text.tobytes())
    parts = {name: getattr(kept, name) for name in PARTS}
    return CocoIndex(path, dict(categories), files=Names(Paths(kept.names, kept.name_ends)), notes=notes, **parts)
