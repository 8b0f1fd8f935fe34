"""Lists of millions of files: found once, kept in files that all processes map, and checked before they are used."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lk_downstream import kept_arrays
from lk_downstream.data.reading import find_images

KEEP_FROM = 100_000  # files; fewer are listed in less than a second
SETTLED = 2.0  # seconds after its last change from which a folder's time tells the next change


class Paths(Sequence[bytes]):
    """Many paths as one row of bytes: no object for each, which every loader process would copy.

    Args:
        names: uint8, all paths one after the other.
        ends: int64, (N,), where each ends.
    """

    def __init__(self, names: np.ndarray, ends: np.ndarray):
        self.names, self.ends = names, ends
        self._names, self._ends = memoryview(np.asarray(names)), memoryview(np.asarray(ends))  # fast at single values

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> Paths:
        """Those paths."""
        paths = list(paths)
        return cls(np.frombuffer(b"".join(paths), np.uint8), np.cumsum([*map(len, paths)], dtype=np.int64))

    def __reduce__(self) -> tuple:
        return _received, tuple(map(kept_arrays.sendable, (self.names, self.ends)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        number = range(len(self))[index]
        return self._names[self._ends[number - 1] if number else 0 : self._ends[number]].tobytes()


def _received(*parts: np.ndarray | kept_arrays.Mapped) -> Paths:
    return Paths(*map(kept_arrays.received, parts))


class Listing(NamedTuple):
    """The images in some folders.

    Attributes:
        names: See :class:`Paths`.
        ends: Likewise.
        counts: int64, images in each of the folders.
        visited: uint8, the folders that were looked into, one after the other, each with a 0 behind it.
        changed: int64, when each of these was last changed, in nanoseconds.
    """

    names: np.ndarray
    ends: np.ndarray
    counts: np.ndarray
    visited: np.ndarray
    changed: np.ndarray


def images_in(root: Path, folders: Sequence[str]) -> tuple[Paths, np.ndarray]:
    """Paths below ``root`` of the images in some of its folders and below, and how many are in each.

    Of many images the list is kept in the cache folder, and used again as long as no folder in it was changed.

    Raises:
        InputError: A folder cannot be listed.
    """
    key = hashlib.sha256(os.fsencode(root.absolute()) + b"\0" + "\0".join(folders).encode("utf-8", "surrogateescape"))
    place = kept_arrays.cache_folder() / f"listing-{key.hexdigest()[:32]}"
    if (kept := kept_arrays.load_arrays(place, Listing)) is not None and _still(root, kept, len(folders)):
        return Paths(kept.names, kept.ends), kept.counts
    start = time.time()
    visited: list[str] = []
    found = [sorted(find_images(root, folder, visited)) for folder in folders]
    counts = np.array([len(paths) for paths in found], dtype=np.int64)
    paths = Paths.of(path for part in found for path in part)
    times = _times(root, visited) if len(paths) >= KEEP_FROM else None
    if times is None or times.max() > 1e9 * (start - SETTLED):
        return paths, counts
    dirs = np.frombuffer(b"".join(os.fsencode(folder) + b"\0" for folder in visited), np.uint8)
    try:
        kept = kept_arrays.keep_arrays(place, Listing(paths.names, paths.ends, counts, dirs, times))
    except OSError:
        return paths, counts
    return Paths(kept.names, kept.ends), kept.counts


def _still(root: Path, kept: Listing, folders: int) -> bool:
    """Whether nothing was changed in a folder since it was listed."""
    visited = [os.fsdecode(name) for name in kept.visited.tobytes().split(b"\0")[:-1]]
    times = _times(root, visited) if len(kept.counts) == folders else None
    return times is not None and np.array_equal(times, kept.changed)


def _times(root: Path, folders: list[str]) -> np.ndarray | None:
    try:
        return np.array([os.stat(root / folder).st_mtime_ns for folder in folders], dtype=np.int64)
    except OSError:  # it is gone, or lies in an archive, which has an index of its own
        return None
