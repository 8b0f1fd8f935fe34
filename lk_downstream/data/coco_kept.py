"""The index of a large annotation file, kept in files: one process parses the file, and all map the index."""

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

KEEP_FROM = 2**23  # bytes; smaller files are parsed in a third of a second
VERSION = 1  # of the files of an index


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


def kept_index(path: Path, option: str, make: Callable[[], CocoIndex]) -> CocoIndex:
    """The index of an annotation file: the one in the cache folder if the file is still the same, else made and kept.

    A file is the same if all of its bytes are, which takes a second a gigabyte to see.

    Args:
        path: The annotation file.
        option: What else the index depends on.
        make: Makes it.

    Raises:
        InputError: As ``make``.
    """
    try:
        if trust.size(path) < KEEP_FROM:
            return make()
        stamp = np.frombuffer(bytes([VERSION]) + trust.digest(path), np.uint8)
    except (OSError, InputError):
        return make()  # which says what is wrong
    key = hashlib.sha256(f"{option}\0".encode() + os.fsencode(path)).hexdigest()[:32]
    folder = kept_arrays.cache_folder() / f"coco-{key}"
    kept = kept_arrays.load_arrays(folder, Kept)
    if kept is None or not np.array_equal(kept.stamp, stamp):
        index = make()
        try:
            kept = kept_arrays.keep_arrays(folder, _to_kept(index, stamp))
        except OSError:
            return index
    return _from_kept(path, kept)


def _to_kept(index: CocoIndex, stamp: np.ndarray) -> Kept:
    names = Paths.of(name.encode("utf-8", "surrogatepass") for name in index.files)
    text = json.dumps([list(index.categories.items()), index.notes]).encode()
    parts = {name: getattr(index, name) for name in PARTS}
    return Kept(**parts, names=names.names, name_ends=names.ends, text=np.frombuffer(text, np.uint8), stamp=stamp)


def _from_kept(path: Path, kept: Kept) -> CocoIndex:
    categories, notes = json.loads(kept.text.tobytes())
    parts = {name: getattr(kept, name) for name in PARTS}
    return CocoIndex(path, dict(categories), files=Names(Paths(kept.names, kept.name_ends)), notes=notes, **parts)
