"""Outlines of objects in COCO's forms, polygons and run lengths: checked, drawn, and packed in bytes."""

from __future__ import annotations

import json
import struct
from array import array
from typing import Any

import numpy as np

from lk_downstream import trust

FARTHEST = 1e6  # pixels: pycocotools draws polygons beyond any border, until the memory is full
MOST_POLYGONS = 10_000  # of an object: drawing them takes a time that grows with the square of their number
POLYGONS, OTHER = b"p", b"j"  # what packed outlines begin with


def parse_outline(outline: Any, height: int, width: int) -> list[list[float]] | np.ndarray:
    """COCO's ``segmentation`` as polygons x1, y1, x2, y2, and so on, or as run lengths int64, checked but not drawn.

    Raises:
        ValueError: It is neither, or of another size; the message goes on from "annotation 7 ".
    """
    if not outline:
        raise ValueError("has no segmentation: set data.masks to false, or score boxes (bbox) alone")
    if isinstance(outline, list):
        try:
            points = [np.asarray(part, dtype=np.float64) for part in outline]
        except (TypeError, ValueError, OverflowError):
            points = []
        if not points or any(part.ndim != 1 for part in points):
            raise ValueError("has a segmentation that is no list of polygons [x1, y1, x2, y2, and so on]")
        parts = [part for part in points if len(part) >= 6 and len(part) % 2 == 0]
        if not parts:
            raise ValueError("has a segmentation without a polygon of three points or more")
        if not all((abs(part) < FARTHEST).all() for part in points):
            raise ValueError("has a polygon whose points are no pixels")
        most = trust.limit(trust.MAX_PIXELS) / 64  # pycocotools takes about 100 bytes a pixel of the outline
        if len(parts) > MOST_POLYGONS or (_longest(parts) > most and (length := sum(map(_length, parts))) > most):
            what = f"{len(parts)} polygons" if len(parts) > MOST_POLYGONS else f"{length:.0f} pixels"
            raise ValueError(f"has an outline of {what}, which takes too much memory or time to draw: simplify it")
        return [part.tolist() for part in parts]
    if not isinstance(outline, dict) or not {"counts", "size"} <= outline.keys():
        raise ValueError("has a segmentation that is neither polygons nor run lengths (counts and size)")
    counts, size = outline["counts"], outline["size"]
    if size != [height, width]:
        raise ValueError(f"has run lengths of the size {size} in an image of [{height}, {width}]")
    try:
        runs = np.asarray(counts if isinstance(counts, list) else run_lengths(counts), dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        runs = np.array([-1])
    # Each run by itself: the sum of large ones could wrap around.
    if runs.ndim != 1 or (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"has broken run lengths: they do not fill {height} x {width} pixels")
    return runs


def _longest(polygons: list[np.ndarray]) -> float:
    """A length that the outlines of polygons cannot exceed, which costs less than the true one."""
    return sum(len(part) * np.abs(part).max() for part in polygons)


def _length(polygon: np.ndarray) -> float:
    """Length of the outline that pycocotools walks along, in pixels."""
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def decode_outline(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask uint8 (H, W) of COCO's ``segmentation``: polygons, run lengths as numbers, or compressed ones.

    Raises:
        ValueError: See `parse_outline`.
    """
    parsed = parse_outline(outline, height, width)
    if isinstance(parsed, list):
        from pycocotools import mask as rle

        return rle.decode(rle.merge(rle.frPyObjects(parsed, height, width)))
    # Written out here: the library's decoder trusts its input and leaves memory unset.
    return np.repeat(np.arange(len(parsed)) % 2, parsed).astype(np.uint8).reshape(width, height).T


def run_lengths(code: str | bytes) -> list[int]:
    """The numbers of COCO's compressed run lengths: 5 bits a character, later ones as differences.

    Raises:
        ValueError: It is no such code.
    """
    text = code.encode() if isinstance(code, str) else bytes(code)
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:  # no longer than a number of 64 bits
            raise ValueError
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError
    return runs


def pack_outline(outline: Any) -> bytes:
    """COCO's ``segmentation``, whatever it holds, as bytes; none where there is none.

    Polygons, of which a data set has millions of numbers, as such; everything else as JSON.
    """
    if not outline:
        return b""
    if isinstance(outline, list) and all(isinstance(part, list) for part in outline):
        try:
            parts = [array("d", part).tobytes() for part in outline]
            return POLYGONS + struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)) + b"".join(parts)
        except (TypeError, OverflowError):  # they are no numbers, which is said where they are drawn
            pass
    try:
        return OTHER + json.dumps(outline).encode()
    except RecursionError:
        return OTHER + b'"nested too deeply"'  # which is no outline either


def unpack_outline(code: bytes) -> Any:
    """What :func:`pack_outline` has packed, the polygons as float64 (2 P,)."""
    if not code:
        return None
    if code[:1] == OTHER:
        return json.loads(code[1:])
    (count,) = struct.unpack_from("<I", code, 1)
    place, parts = 5 + 4 * count, []
    for size in struct.unpack_from(f"<{count}I", code, 5):
        parts.append(np.frombuffer(code[place : place + size]))
        place += size
    return parts
