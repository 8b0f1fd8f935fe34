"""The pages of a column chunk of a Parquet file, and where the values of binary columns lie in them.

The layout is that of https://parquet.apache.org/docs/file-format: a page has a header in Thrift's compact protocol, and
what follows is packed or not. Of all this only what Hugging Face's and other common writers make of images is read:
binary values one after the other (PLAIN, also as dictionary), without compression or by Snappy.

Snappy (https://github.com/google/snappy/blob/main/format_description.txt) packs pieces of 64 KiB each by itself, so
that the pieces around a value can be unpacked alone. So do all known writers, but the format does not say that they
must: who uses these places has to compare what is unpacked.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages
PLAIN, PLAIN_DICTIONARY = 0, 2  # encodings; a dictionary's own is either, and both mean the same
PIECE = 2**16  # bytes that Snappy packs by themselves
MOST_HEADER = 2**14  # bytes before a page
MOST_ELEMENTS = 2**20  # of a packed page, which are walked through in half a second


class Place(NamedTuple):
    """Where a value lies.

    Attributes:
        start: First byte to read, in the column chunk.
        stop: The byte after the last one.
        size: Bytes that these are unpacked.
        skip: Of these, bytes before the value.
        length: Bytes of the value.
    """

    start: int
    stop: int
    size: int
    skip: int
    length: int


class Page(NamedTuple):
    """A page.

    Attributes:
        kind: ``DATA``, ``DICTIONARY``, ``DATA_2`` or another one.
        encoding: Of its values.
        start: Where what it holds begins, in the column chunk.
        packed: Bytes there.
        size: Bytes of it, unpacked.
        levels: Bytes before the values that are not packed, or -1: they are packed with them.
        plain: Whether the values are not packed though the column is.
    """

    kind: int
    encoding: int
    start: int
    packed: int
    size: int
    levels: int
    plain: bool

    @property
    def has_values(self) -> bool:
        """Whether it holds values one after the other."""
        kinds = {DICTIONARY: (PLAIN, PLAIN_DICTIONARY), DATA: (PLAIN,), DATA_2: (PLAIN,)}
        return self.encoding in kinds.get(self.kind, ())

    @property
    def first(self) -> int:
        """Where what is unpacked as one begins, in the column chunk."""
        return self.start + max(self.levels, 0)


def pages(read: Callable[[int, int], bytes], size: int) -> Iterator[Page]:
    """The pages of a column chunk, of which their headers alone are read.

    Args:
        read: Gives so many bytes (the second) of the chunk from a place on (the first), or as many as there are.
        size: Bytes of the chunk.

    Raises:
        ValueError: It is none.
        IndexError: Likewise.
    """
    at = 0
    while at < size:
        header, length = _struct(read(at, min(MOST_HEADER, size - at)), 0)
        at += length
        kind, unpacked, packed = (header.get(number) for number in (1, 2, 3))
        own = header.get({DATA: 5, DICTIONARY: 7, DATA_2: 8}.get(kind, -1), {})
        encoding = own.get(4 if kind == DATA_2 else 2)
        levels = own.get(5, 0) + own.get(6, 0) if kind == DATA_2 else -1
        if not 0 <= packed <= size - at or levels > packed or unpacked < 0:
            raise ValueError("a page is longer than its column chunk")
        yield Page(kind, encoding, at, packed, unpacked, levels, own.get(7) is False)
        at += packed


def values(
    page: Page, content: bytes, marks: list[tuple[int, int]] | None, levels: int
) -> Iterator[tuple[Place, bytes]]:
    """The values of a page that has some, each with its place.

    Args:
        page: The page.
        content: What is there from its ``first`` byte on, unpacked.
        marks: Where pieces begin that are packed by themselves, see :func:`piece_marks`; None: it is not packed.
        levels: Kinds of levels (repetition, definition) that stand before the values where no header tells their size.

    Raises:
        ValueError: A value is longer than the page.
    """
    at = 0
    for _ in range(levels if page.kind == DATA else 0):
        at += 4 + int.from_bytes(content[at : at + 4], "little")
    while at < len(content):
        start = at + 4
        at = start + int.from_bytes(content[at:start], "little")
        if at > len(content):
            raise ValueError("a value is longer than its page")
        before, packed_before, after, packed_after = start, start, at, at
        if marks is not None:
            before, packed_before = marks[bisect.bisect_right(marks, (start, len(content) + 1)) - 1]
            after, packed_after = marks[bisect.bisect_left(marks, (at, 0))]
        place = Place(page.first + packed_before, page.first + packed_after, after - before, start - before, at - start)
        yield place, content[start:at]


def piece_marks(packed: bytes) -> list[tuple[int, int]]:
    """Where the pieces that Snappy packs by themselves begin: bytes before each, unpacked and packed; and the end.

    Raises:
        ValueError: It is none of Snappy's, or has too many elements to walk through.
        IndexError: Likewise.
    """
    size, at = _number(packed, 0)
    marks, done = [(0, at)], 0
    for _ in range(MOST_ELEMENTS):
        if at == len(packed):
            break
        kind, count = packed[at] & 3, packed[at] >> 2
        if kind == 0:  # bytes as they are
            at += 1
            if count >= 60:
                more = count - 59
                count, at = int.from_bytes(packed[at : at + more], "little"), at + more
            at += count + 1
            done += count + 1
        elif kind == 1:  # bytes that were there before
            done, at = done + 4 + (count & 7), at + 2
        else:
            done, at = done + count + 1, at + (3 if kind == 2 else 5)
        if done % PIECE == 0:
            marks.append((done, at))
    if at != len(packed) or done != size:
        raise ValueError("not packed by Snappy, or in too small elements")
    if marks[-1][0] != done:
        marks.append((done, at))
    return marks


def size_mark(size: int) -> bytes:
    """What stands before the pieces of Snappy: how many bytes they are unpacked."""
    mark = bytearray()
    while size > 127:
        mark.append(size & 127 | 128)
        size >>= 7
    return bytes([*mark, size])


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of bytes whose highest bit says that more follow, and where it ends."""
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct in Thrift's compact protocol by their numbers, and where it ends; bytes are left out."""
    if depth > 4:
        raise ValueError("structs within structs")
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        kind, step = head & 15, head >> 4
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        if kind in (1, 2):
            fields[number] = kind == 1
        elif kind == 3:
            at += 1
        elif kind in (4, 5, 6):
            fields[number], at = _signed(data, at)
        elif kind == 8:
            length, at = _number(data, at)
            at += length
        elif kind == 12:
            fields[number], at = _struct(data, at, depth + 1)
        else:
            raise ValueError(f"a field of kind {kind}, which no header of a page has")
    return fields, at + 1


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _number(data, at)
    return value >> 1 ^ -(value & 1), at
