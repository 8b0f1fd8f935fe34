"""What is where in an archive (zip, tar, tars within a tar): found once, and kept in files that all processes map.

The files lie beside the archive or, where that cannot be written, in the cache folder (``LK_CACHE``, by default
``~/.cache/lk_downstream``).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lk_downstream.errors import InputError
from lk_downstream.kept_arrays import cache_folder, keep_arrays, load_arrays

STORED, DEFLATED = 0, 8  # methods of a zip archive; what a tar archive holds is stored
VERSION = 1  # of the files of an index


class Index(NamedTuple):
    """What an archive holds: its files in the order of their names.

    Attributes:
        names: uint8, all names one after the other, with slashes and in UTF-8.
        ends: int64, (N,), where each ends.
        offsets: int64, (N,), where each file's content begins; of a zip archive, the header before it.
        sizes: int64, (N, 2), bytes in the archive, and unpacked.
        kinds: int64, (N, 2), the method, and the check sum of zip archives.
        stamp: int64, (3,), of what the index is: its version, and size and time of the archive.
    """

    names: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray
    stamp: np.ndarray


def stamp_of(path: str | os.PathLike) -> tuple[int, int]:
    """Size and time of a file, by which a change is noticed."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def index_of(path: Path) -> Index:
    """What an archive holds, by the index that is kept of it, beside it or in the cache folder, if it still holds.

    Raises:
        InputError: It is damaged, or packed as a whole.
    """
    stamp = np.array([VERSION, *stamp_of(path)], dtype=np.int64)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    folders = [path.with_name(f".{path.name}.index"), cache_folder() / f"archive-{name}"]
    for folder in folders:
        index = load_arrays(folder, Index)
        if index is not None and np.array_equal(index.stamp, stamp):
            return index
    index = _scan(path)._replace(stamp=stamp)
    for folder in folders:
        try:
            return keep_arrays(folder, index)
        except OSError:
            continue
    return index


def _scan(path: Path) -> Index:
    """Find what an archive holds.

    Raises:
        InputError: It is damaged, or packed as a whole.
    """
    try:
        found = _zip_entries(path) if path.suffix.lower() == ".zip" else _tar_entries(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        hint = "" if path.suffix.lower() == ".zip" else " (one that is packed as a whole has to be unpacked first)"
        raise InputError(f"{path} is no {path.suffix[1:]} archive or is damaged ({error}){hint}") from error
    if not found:
        raise InputError(f"{path} holds no file")
    found.sort()
    names = [entry[0] for entry in found]
    numbers = np.array([entry[1:] for entry in found], dtype=np.int64)
    return Index(
        np.frombuffer(b"".join(names), np.uint8),
        np.cumsum([len(name) for name in names]),
        *(np.ascontiguousarray(part) for part in (numbers[:, 0], numbers[:, 1:3], numbers[:, 3:])),
        np.zeros(0, dtype=np.int64),
    )


def _zip_entries(path: Path) -> list[tuple]:
    """Name, offset, size, unpacked size, method and check sum of each file."""
    with zipfile.ZipFile(path) as archive:
        return [
            (os.fsencode(info.filename), info.header_offset, info.compress_size, info.file_size)
            + (info.compress_type if not info.flag_bits & 1 else -1, info.CRC)
            for info in archive.infolist()
            if not info.is_dir() and _is_plain(info.filename)
        ]


def _tar_entries(path: Path) -> list[tuple]:
    """As :func:`_zip_entries`; a tar within it is a folder of its name, as in ImageNet's training archive."""
    found: list[tuple] = []
    with path.open("rb") as file, tarfile.TarFile(fileobj=file) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isreg() or not _is_plain(name):
                continue
            if not name.lower().endswith(".tar"):
                found.append((os.fsencode(name), member.offset_data, member.size, member.size, STORED, -1))
                continue
            file.seek(member.offset_data)
            inner = tarfile.TarFile(fileobj=_Part(file, member.offset_data, member.size))
            for item in inner:
                full = f"{name[:-4]}/{item.name.removeprefix('./')}"
                if item.isreg() and _is_plain(full):
                    offset = member.offset_data + item.offset_data
                    found.append((os.fsencode(full), offset, item.size, item.size, STORED, -1))
            archive.members = []  # which it would keep
    return found


class _Part:
    """A part of a file, as a file."""

    def __init__(self, file: Any, start: int, size: int):
        self.file, self.start, self.size, self.position = file, start, size, 0

    def read(self, count: int) -> bytes:
        self.file.seek(self.start + self.position)
        data = self.file.read(max(0, min(count, self.size - self.position)))
        self.position += len(data)
        return data

    def seek(self, position: int) -> int:
        self.position = position
        return position

    def tell(self) -> int:
        return self.position


def _is_plain(name: str) -> bool:
    """Whether a name is one of a file that is not hidden and lies in the archive; macOS adds a folder of its own."""
    parts = name.split("/")
    return not any(part in ("", "..") or part.startswith(".") or part == "__MACOSX" for part in parts)
