"""Single values of a binary column of a Parquet file, read without the others of their row group.

Where the values of a row group lie is found when it is first read as a whole, and kept: for large files in the cache
folder (``LK_CACHE``), for all processes, each of which reads there what it needs of it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lk_downstream import kept_arrays, trust
from lk_downstream.archive_index import stamp_of
from lk_downstream.data.parquet_pages import Page, pages, piece_marks, size_mark, values

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

KEEP_FROM = 2**23  # bytes; of smaller files each process finds the places for itself
VERSION = 1  # of the files of places
CODECS = {"UNCOMPRESSED": False, "SNAPPY": True}  # whether values are packed


class Record(NamedTuple):
    """What is kept of a value.

    Attributes:
        start: First byte to read, in the file.
        stop: The byte after the last one; 0: nothing is known yet, -1: the value is only read with its row group.
        packed: Whether these bytes are packed by Snappy.
        size: Bytes that they are unpacked.
        skip: Of these, bytes before the value.
        length: Bytes of the value.
        ends: Check sum of the value's first and last bytes.
    """

    start: int = 0
    stop: int = -1
    packed: int = 0
    size: int = 0
    skip: int = 0
    length: int = 0
    ends: int = 0


_LAYOUT = struct.Struct(f"={len(Record._fields)}q")
BYTES = _LAYOUT.size  # of a record
CHECKED = 512  # bytes at each end of a value


class Places:
    """Where the values of a column lie, as far as it was found out.

    A value begins and ends as the one that was there, or is not given: the file may have been changed, or a record be
    half written by another process.

    Args:
        path: The Parquet file.
        leaf: The column, or a field of it such as ``image.bytes``.

    Raises:
        OSError: There is no such file.
    """

    def __init__(self, path: Path, leaf: str):
        self.path, self.leaf, self._own = path, leaf, bytearray()
        size, changed = stamp_of(path)
        key = f"{VERSION}\0{path.resolve()}\0{size}\0{changed}\0{leaf}".encode("utf-8", "surrogateescape")
        name = f"parquet-{hashlib.sha256(key).hexdigest()[:32]}"
        self._kept = kept_arrays.cache_folder() / name if size >= KEEP_FROM else None

    def read(self, row: int) -> bytes | None:
        """The value of a row of the file; None if it is not known where it lies, or no longer there."""
        record = self._load(row)
        if record is None or record.stop <= 0:
            return None
        try:
            value = _value(self.path, record)
        except (OSError, ValueError):
            return None
        return value if len(value) == record.length and _ends(value) == record.ends else None

    def know(self, row: int) -> bool:
        """Whether it was found out where a row's value lies."""
        return self._load(row) is not None

    def fill(self, first: int, values: Iterable[bytes | None], group: int) -> None:
        """Find out where the values of a row group lie.

        Args:
            first: The group's first row in the file.
            values: Those of its rows.
            group: Its number.
        """
        with trust.open_parquet(self.path) as file:
            try:
                found = dict(_records(self.path, file, group, self.leaf))
            except (ValueError, IndexError, TypeError, AttributeError, OSError):  # pages of another writer
                found = {}
        rows = bytearray()
        for value in values:
            record = found.get((len(value), zlib.crc32(value))) if value else None
            # That a record gives the value makes sure of all that was taken for granted to find its place.
            record = record if record is not None and _gives(self.path, record, value) else Record()
            rows += _LAYOUT.pack(*record)
        self._keep(first, bytes(rows))

    def _load(self, row: int) -> Record | None:
        data = bytes(self._own[BYTES * row : BYTES * (row + 1)])
        if self._kept is not None:
            try:
                data = _read(self._kept, BYTES * row, BYTES)
            except OSError:  # no process has written any yet
                return None
        record = Record(*_LAYOUT.unpack(data)) if len(data) == BYTES else None
        return record if record and record.stop else None

    def _keep(self, first: int, data: bytes) -> None:
        if self._kept is not None:
            try:
                self._kept.parent.mkdir(parents=True, exist_ok=True)
                with open(self._kept, "r+b", opener=_make_or_open) as file:  # and what another process has written
                    file.seek(BYTES * first)
                    file.write(data)
                return
            except OSError:  # a folder that cannot be written
                self._kept = None
        self._own.extend(bytes(max(0, BYTES * first + len(data) - len(self._own))))
        self._own[BYTES * first : BYTES * first + len(data)] = data


def _make_or_open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _gives(path: Path, record: Record, value: bytes) -> bool:
    """Whether a record leads to a value."""
    try:
        return _value(path, record) == value
    except (OSError, ValueError):
        return False


def _value(path: Path, record: Record) -> bytes:
    """The value that a record leads to.

    Raises:
        OSError: It cannot be read, or it is not what the record says.
        ValueError: Likewise.
    """
    count, most = record.stop - record.start, trust.limit(trust.MAX_FILE_BYTES)
    if not (record.start >= 0 and 0 < count <= most and 0 < record.size <= most):
        raise ValueError("no place of a value, or more bytes than are read")
    data = _read(path, record.start, count)
    if record.packed:
        data = _unpack(size_mark(record.size) + data, record.size)
    return data[record.skip : record.skip + record.length]


def _read(path: Path, start: int, count: int) -> bytes:
    """Bytes of a file, which stays open in no process."""
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(file, start, os.SEEK_SET)
        return os.read(file, count)
    finally:
        os.close(file)


def _ends(value: bytes) -> int:
    return zlib.crc32(value[-CHECKED:], zlib.crc32(value[:CHECKED]))


def _unpack(data: bytes, size: int) -> bytes:
    import pyarrow as arrow

    if not size:
        return b""
    return arrow.decompress(data, decompressed_size=size, codec="snappy", asbytes=True)


def _records(path: Path, file: ParquetFile, group: int, leaf: str) -> Iterator[tuple[tuple, Record]]:
    """Length and check sum of each value in a row group's column, and its record."""
    meta = file.metadata.row_group(group)
    number = [file.schema.column(at).path for at in range(len(file.schema.names))].index(leaf)
    column, kind = meta.column(number), file.schema.column(number)
    if column.compression not in CODECS or kind.max_repetition_level:
        return
    start, size = column.data_page_offset, column.total_compressed_size
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start:
        start = column.dictionary_page_offset
    if size > trust.limit(trust.MAX_FILE_BYTES):
        return
    with path.open("rb") as opened:

        def read(at: int, count: int) -> bytes:
            opened.seek(start + at)
            return opened.read(count)

        for page in pages(read, size):
            if page.has_values:
                packed = CODECS[column.compression] and not page.plain
                content, marks = _unpacked(page, read(page.first, page.start + page.packed - page.first), packed)
                for place, value in values(page, content, marks, int(kind.max_definition_level > 0)):
                    first, stop, *rest = place
                    record = Record(start + first, start + stop, int(packed), *rest, _ends(value))
                    yield (len(value), zlib.crc32(value)), record


def _unpacked(page: Page, content: bytes, packed: bool) -> tuple[bytes, list[tuple[int, int]] | None]:
    """What is in a page from its ``first`` byte on, unpacked, and the marks of its pieces."""
    if not packed:
        return content, None
    size = page.size - (page.first - page.start)
    if size > trust.limit(trust.MAX_FILE_BYTES):
        raise ValueError("more bytes than are read")
    return _unpack(content, size), piece_marks(content)
