"""Files within archives (zip, tar, tars within a tar), read where they lie: any one, in any order, by any process.

A path may lead into an archive, as into a folder: ``FILE.zip/images/a.jpg``. A folder that does not have what a path
asks for is completed by the archives that lie in it, so that official downloads are a data set as they are:
``coco/train2017/1.jpg`` may be in ``coco/train2017.zip``. The one folder that many archives hold everything in may be
left out of a path.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lk_downstream.archive_index import DEFLATED, STORED, index_of, stamp_of
from lk_downstream.errors import DamagedFile, InputError

SUFFIXES = (".zip", ".tar")
_LOCAL = struct.Struct("<4s22xHH")  # the header before the content in a zip archive: mark, lengths of name and extra
_LOCK = threading.Lock()
_KNOWN: dict[str, tuple[Any, str]] = {}  # folder -> archive that it lies in, and where
MOST_KNOWN = 100_000  # folders


class Entry(NamedTuple):
    """A file or folder within an archive, with what is asked of an ``os.DirEntry``."""

    name: str
    folder: bool
    number: int

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Whether it is a file."""
        return not self.folder

    def is_symlink(self) -> bool:
        """False: links within archives are left out."""
        return False

    def inode(self) -> int:
        """A number that no other file of the archive has."""
        return self.number


class Archive:
    """An archive that is open for reading.

    Args:
        path: The file.

    Raises:
        InputError: It is damaged, or packed so that its files cannot be read one by one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self.stamp = Path(path), stamp_of(path)
        self.index = index_of(self.path)
        # Of these single values are taken, which arrays are slow at.
        self._names, self._ends = (memoryview(np.asarray(part)) for part in (self.index.names, self.index.ends))
        self.file = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        first, last = (self._name(number).partition(b"/") for number in (0, len(self._ends) - 1))
        self.top = first[0] + b"/" if first[1] and first[0] == last[0] else b""  # the names are sorted

    def find(self, name: str) -> tuple[int, bytes] | None:
        """Number of a file, or of the first file of a folder, and its name in the archive; None if there is none."""
        key = os.fsencode(name).strip(b"/")
        for full in dict.fromkeys((key, (self.top + key).rstrip(b"/"))):
            number = self._first(full)
            if number < len(self._ends) and self._name(number) == full:
                return number, full
            inside = full + b"/" if full else b""
            number = self._first(inside)
            if number < len(self._ends) and self._name(number).startswith(inside):
                return number, full
        return None

    def is_file(self, name: str) -> bool:
        """Whether there is a file of this name."""
        found = self.find(name)
        return found is not None and self._name(found[0]) == found[1]

    def entries(self, name: str) -> Iterator[Entry]:
        """What a folder holds, in the order of the names."""
        if (found := self.find(name)) is None:
            return
        number, full = found
        inside = full + b"/" if full else b""
        while number < len(self._ends) and (key := self._name(number)).startswith(inside):
            base, folder, _ = key[len(inside) :].partition(b"/")
            yield Entry(os.fsdecode(base), bool(folder), number)
            number = self._first(inside + base + b"0") if folder else number + 1  # "0" follows "/"

    def read(self, name: str, most: int) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: There is none of this name.
            InputError: It has more than ``most`` bytes, or is packed in a way that is not read.
            DamagedFile: It is not what its entry says.
        """
        number, full = self.find(name) or (-1, b"")
        if number < 0 or self._name(number) != full:
            raise FileNotFoundError(2, "No such file or directory", f"{self.path}/{name}")
        (packed, size), (method, checksum) = self.index.sizes[number].tolist(), self.index.kinds[number].tolist()
        if max(packed, size) > most:
            raise InputError(f"{self.path}/{name} has {max(packed, size)} bytes, more than the {most} that are read")
        if method not in (STORED, DEFLATED):
            raise InputError(f"{self.path}/{name} is packed by method {method}: unpack the archive, or write it anew")
        offset = int(self.index.offsets[number])
        if self.path.suffix.lower() == ".zip":
            mark, name_length, extra_length = _LOCAL.unpack(self._bytes(offset, _LOCAL.size, name))
            if mark != b"PK\x03\x04":
                raise self._damaged(name)
            offset += _LOCAL.size + name_length + extra_length
        data = self._bytes(offset, packed, name)
        if method == DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error:
                raise self._damaged(name) from None
        if len(data) != size or (checksum >= 0 and zlib.crc32(data) != checksum):
            raise self._damaged(name)
        return data

    def _bytes(self, offset: int, count: int, name: str) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self.file, count, offset)
        else:
            with _LOCK:
                os.lseek(self.file, offset, os.SEEK_SET)
                data = os.read(self.file, count)
        while 0 < len(data) < count:  # a call gives 2 GiB at most
            more = self._bytes(offset + len(data), count - len(data), name)
            data += more
        if len(data) < count:
            raise self._damaged(name)
        return data

    def _damaged(self, name: str) -> DamagedFile:
        return DamagedFile(f"{self.path}/{name} is damaged within its archive: download or copy the archive again")

    def _name(self, number: int) -> bytes:
        return self._names[self._ends[number - 1] if number else 0 : self._ends[number]].tobytes()

    def _first(self, key: bytes) -> int:
        """Number of the first file whose name is not below ``key``."""
        low, high = 0, len(self._ends)
        while low < high:
            middle = (low + high) // 2
            if self._name(middle) < key:
                low = middle + 1
            else:
                high = middle
        return low


class Place(type(Path())):
    """A path that may lead into an archive."""

    def exists(self, **options: Any) -> bool:
        """Whether there is a file or folder."""
        return super().exists(**options) or locate(self) is not None

    def is_dir(self, **options: Any) -> bool:
        """Whether it is a folder, or an archive."""
        if super().is_dir(**options):
            return True
        found = locate(self)
        return found is not None and not found[0].is_file(found[1])

    def is_file(self, **options: Any) -> bool:
        """Whether it is a file, and no archive."""
        if super().is_file(**options):
            return self.suffix.lower() not in SUFFIXES
        found = locate(self)
        return found is not None and found[0].is_file(found[1])

    def iterdir(self) -> Iterator[Place]:
        """What a folder holds."""
        found = None if super().is_dir() else locate(self)
        if found is None:
            yield from super().iterdir()
        else:
            yield from (self / entry.name for entry in found[0].entries(found[1]))

    def glob(self, pattern: str, **options: Any) -> Iterator[Place]:
        """What matches a pattern without ``**``."""
        if super().is_dir() or not self.is_dir():
            yield from super().glob(pattern, **options)
            return
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatch(path.name, first):
                yield from path.glob(rest) if rest else [path]

    def samefile(self, other: Any) -> bool:
        """Whether both are one file or folder."""
        if super().exists() and Path(other).exists():
            return super().samefile(other)
        return str(self) == str(other)


def locate(path: str | os.PathLike) -> tuple[Archive, str] | None:
    """The archive that a path leads into, and the rest of the path; None if it leads into none."""
    text = os.fspath(path)
    folder, name = os.path.split(text)
    if (known := _KNOWN.get(folder)) is not None:  # as for all images but the first
        archive, inside = known
        if archive.stamp == stamp_of(archive.path) and archive.find(inside + name):
            return archive, inside + name
    found = _search(Path(text))
    if found is not None and found[1].endswith(name) and len(_KNOWN) < MOST_KNOWN:
        _KNOWN[folder] = found[0], found[1].removesuffix(name)
    return found


def _search(path: Path) -> tuple[Archive, str] | None:
    for place in (path, *path.parents):
        if place.suffix.lower() in SUFFIXES and place.is_file():
            archive, rest = opened(str(place), *stamp_of(place)), "/".join(path.parts[len(place.parts) :])
            return (archive, rest) if archive.find(rest) else None
        if place is not path and place.is_dir():
            rest = path.relative_to(place).as_posix()
            for archive in _lying_in(str(place)):
                if archive.find(rest):
                    return archive, rest
            return None
    return None


@contextmanager
def scandir(path: str | os.PathLike) -> Iterator[Iterator[os.DirEntry | Entry]]:
    """As ``os.scandir``, also within archives."""
    found = None if os.path.isdir(path) else locate(path)
    with os.scandir(path) if found is None else nullcontext(found[0].entries(found[1])) as entries:
        yield entries


@functools.lru_cache(maxsize=64)
def opened(path: str, *stamp: int) -> Archive:
    """The archive; each is opened once in a process, and again after it was changed."""
    return Archive(path)


@functools.lru_cache(maxsize=64)
def _lying_in(folder: str) -> tuple[Archive, ...]:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return tuple(opened(str(path), *stamp_of(path)) for path in paths)
