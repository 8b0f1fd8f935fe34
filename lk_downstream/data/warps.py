"""Shears and translations of images as Pillow's bicubic affine transform does them, in a fraction of the time.

Pillow weighs 4 x 4 pixels in double precision for each pixel of any affine map. Where the pixels of a line stay in that
line, 4 are enough, and the line has the same four weights everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch


def shear_x(image: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    """Row ``y`` is taken from ``factor`` (y + 1/2) pixels further right, see :func:`slide`."""
    return slide(image, factor * (np.arange(image.shape[0]) + 0.5), 1, fill)


def shear_y(image: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    """Column ``x`` is taken from ``factor`` (x + 1/2) pixels further down, see :func:`slide`."""
    return slide(image, factor * (np.arange(image.shape[1]) + 0.5), 0, fill)


def translate_x(image: np.ndarray, share: float, fill: Sequence[int]) -> np.ndarray:
    """All is taken from a ``share`` of the width further right, see :func:`slide`."""
    return slide(image, np.full(image.shape[0], share * image.shape[1]), 1, fill)


def translate_y(image: np.ndarray, share: float, fill: Sequence[int]) -> np.ndarray:
    """All is taken from a ``share`` of the height further down, see :func:`slide`."""
    return slide(image, np.full(image.shape[1], share * image.shape[0]), 0, fill)


def slide(image: np.ndarray, offsets: np.ndarray, axis: int, fill: Sequence[int]) -> np.ndarray:
    """Move the lines of an image, each by its own way along itself.

    The values between pixels are those of Pillow's ``Image.transform``: cubic convolution with a = -1, pixels at the
    edges repeated, rounded down. They are computed in single precision, so that a value may differ from Pillow's by one
    of 255 levels; by offsets drawn by chance fewer than one in a thousand does.

    Args:
        image: uint8 (H, W, C).
        offsets: float64, from how much further along the line each row (``axis`` 1) or column (``axis`` 0) is taken.
        axis: Along which the lines run.
        fill: What is put where that is outside of the image, a value for each channel.

    Returns:
        uint8 (H, W, C).
    """
    length, (width, channels) = image.shape[axis], image.shape[1:]
    offsets = np.clip(offsets, -length, length)
    moved = np.floor(offsets + 0.5)
    last = length - np.maximum(moved, 0) - 0.5  # the middle of the last pixel that is taken from within
    moved += last + offsets >= length  # where the sum is rounded, as it is in Pillow
    row = np.empty((width, channels), np.uint8)
    row[:] = fill
    result = np.empty_like(image, order="C")
    result[:] = row
    first, stop = max(0, -int(moved.max())), length - max(0, int(moved.min()))
    if first >= stop:  # all lines are taken from outside
        return result
    lines, outside = _lines(result, axis), _lines(np.broadcast_to(row, image.shape), axis)
    lines[:, first:stop] = _lines(_interpolated(image, offsets, axis, first, stop), axis)
    for run, move in _runs(moved.astype(int)):
        part = slice(length - move, stop) if move > 0 else slice(first, -move)
        lines[run, part] = outside[run, part]
    return result


def _interpolated(image: np.ndarray, offsets: np.ndarray, axis: int, first: int, stop: int) -> np.ndarray:
    """The places from ``first`` to ``stop`` of each line, see :func:`slide`."""
    channels = image.shape[2]
    whole = np.floor(offsets).astype(int)
    weights = torch.from_numpy(_weights(offsets - whole))[..., None]
    if axis == 0:  # for each value of a row, as the rows are worked on
        weights = weights.expand(-1, -1, channels).reshape(4, 1, -1)
    moved = _moved(image, whole + first - 1, axis, stop - first + 3)
    pixels, step = torch.from_numpy(moved).flatten(1).float(), 1 if axis == 0 else channels
    taps = [pixels.narrow(axis, number * step, (stop - first) * step) for number in range(4)]
    values = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:]):
        values.addcmul_(tap, weight)
    # A whole number stays what it is, though it may have been computed as a little less.
    values = values.add_(2**-13).clamp_(0, 255).numpy().astype(np.uint8)
    return values.reshape(len(values), -1, channels)


def _weights(place: np.ndarray) -> np.ndarray:
    """Of the four pixels around each ``place`` between the second (0) and the third (1), float32 (4, lines)."""
    rest = 1 - place
    inner = [distance * distance * (distance - 2) + 1 for distance in (place, rest)]
    return np.stack((-place * rest * rest, *inner, -place * place * rest)).astype(np.float32)


def _moved(image: np.ndarray, starts: np.ndarray, axis: int, number: int) -> np.ndarray:
    """So many pixels of each line from its own start on; further outside than two pixels they are anything."""
    length = image.shape[axis]
    before, after = max(2, -int(starts.min())), max(2, int(starts.max()) + number - length)
    shape = list(image.shape)
    shape[axis] = before + length + after
    wide = np.empty(shape, np.uint8)
    source, middle, end = _lines(wide, axis), _lines(image, axis), before + length
    source[:, before:end] = middle
    source[:, before - 2 : before], source[:, end : end + 2] = middle[:, :1], middle[:, -1:]
    shape[axis] = number
    moved = np.empty(shape, np.uint8)
    target = _lines(moved, axis)
    for run, start in _runs(starts):
        target[run] = source[run, before + start : before + start + number]
    return moved


def _lines(image: np.ndarray, axis: int) -> np.ndarray:
    """The image with its lines along the second axis."""
    return image if axis == 1 else image.swapaxes(0, 1)


def _runs(values: np.ndarray) -> Iterator[tuple[slice, int]]:
    """Where equal values follow one another, and which."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(values)]):
        yield slice(start, stop), int(values[start])
