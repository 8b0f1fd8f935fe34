"""Semantic segmentation of images of any size, in memory that does not grow with their height.

Overlapping windows pass the network from the top left to the bottom right, as :class:`Slide` has them, and their logits
are averaged; only the sums of the windows that are not complete yet are held: those of one window in memory, and of the
rows that the next row of windows will add to in a file. Sums are formed in the order in which ``Slide`` forms them, so
that the classes are the same, bit for bit, as those of the whole image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lk_downstream.data.rows import Rows
from lk_downstream.errors import InputError
from lk_downstream.inference.class_maps import resize_logits
from lk_downstream.inference.rules import Slide

TILE = 1024  # pixels, the side of the windows of a task whose rule has none
# Images uint8 (N, C, h, w) -> logits (N, classes, h', w'), on the CPU or any other device.
LogitsOf = Callable[[Tensor], Tensor]


class Carry:
    """Sums of the rows that the next row of windows adds to, in a file: column after column, each whole.

    Args:
        classes: Number of them.
        folder: Where the file lies, without a name; None: with other temporary files.
    """

    def __init__(self, classes: int, folder: Path | None = None):
        self.classes, self.rows = classes, 0
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def begin(self, rows: int) -> None:
        """Hold so many rows from here on."""
        self.rows = rows

    def write(self, column: int, sums: Tensor) -> None:
        """Sums (classes, rows, some columns) of the columns from ``column`` on."""
        array = sums.permute(2, 0, 1).float().cpu().contiguous().numpy()
        self.file.seek(column * self.classes * self.rows * 4)
        self.file.write(array.tobytes())

    def read(self, columns: slice) -> Tensor:
        """Sums float32 (classes, rows, columns)."""
        each = self.classes * self.rows
        self.file.seek(columns.start * each * 4)
        data = bytearray(self.file.read((columns.stop - columns.start) * each * 4))
        count = columns.stop - columns.start
        found = torch.frombuffer(data, dtype=torch.float32) if data else torch.empty(0)
        return found.reshape(count, self.classes, self.rows).permute(1, 2, 0)

    def close(self) -> None:
        """Remove the file."""
        self.file.close()


def window_rows(rule: Slide, height: int) -> list[tuple[slice, int]]:
    """The rows of each row of windows, and the row before which all is complete once it is done."""
    rows = list(dict.fromkeys(row.start for row, _ in rule.positions(height, 1)))
    spans = [slice(start, min(start + rule.crop[0], height)) for start in rows]
    ends = [*(span.start for span in spans[1:]), height]
    return list(zip(spans, ends))


def stream_classes(
    logits_of: LogitsOf,
    rows: Rows,
    rule: Slide,
    classes: int,
    align_corners: bool = False,
    batch: int = 1,
    begin: int = 0,
    folder: Path | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Classes of an image, a few complete rows at a time: the number of the first, and uint8 (rows, W).

    Args:
        logits_of: The network.
        rows: The image.
        rule: Windows and their distance; its ``scale`` has no part in it.
        classes: Number of them.
        align_corners: How logits are resized.
        batch: Windows that pass the network at once.
        begin: The row to begin with, the first of those given before for some number of rows of windows; the windows
            that reach into it are computed again.
        folder: For sums of rows, see :class:`Carry`.
    """
    height, width = rows.size
    columns = _columns(rule, width)
    spans = window_rows(rule, height)
    with ExitStack() as stack:
        carries = [Carry(classes, folder) for _ in range(2)]
        for carry in carries:
            stack.callback(carry.close)
        first = next(number for number, (span, _) in enumerate(spans) if span.stop > begin)
        for number in range(first, len(spans)):
            span, end = spans[number]
            before, after = carries
            after.begin(max(0, span.stop - end))
            band = rows.read(span.start, span.stop)
            counted = _counts([other for other, _ in spans[first : number + 1]], span)
            found = _row(logits_of, band, columns, before if number > first else None, after, end - span.start,
                         counted, classes, align_corners, batch, width)  # fmt: skip
            if span.start >= begin:
                yield span.start, found
            carries.reverse()


def _columns(rule: Slide, width: int) -> list[slice]:
    return list({column.start: column for _, column in rule.positions(1, width)}.values())


def _counts(spans: list[slice], at: slice) -> Tensor:
    """How many of the spans, all of those up to the last one, cover each place of ``at``."""
    counts = torch.zeros(at.stop - at.start)
    for span in spans:
        counts[max(0, span.start - at.start) : max(0, span.stop - at.start)] += 1
    return counts


def _row(
    logits_of: LogitsOf,
    band: Tensor,
    columns: list[slice],
    before: Carry | None,
    after: Carry,
    complete: int,
    row_counts: Tensor,
    classes: int,
    align_corners: bool,
    batch: int,
    width: int,
) -> np.ndarray:
    """One row of windows: gives the classes of its complete rows, and hands over the sums of the others."""
    height = band.shape[1]
    mask = np.empty((complete, width), np.uint8)
    column_counts = _counts(columns, slice(0, width))
    sums: Tensor | None = None
    for number, (column, logits) in enumerate(_windows(logits_of, band, columns, batch)):
        done = columns[number - 1].stop if number else column.start
        fresh = torch.zeros(classes, height, column.stop - done)
        if before is not None and before.rows:
            fresh[:, : before.rows] = before.read(slice(done, column.stop))
        fresh = fresh.to(logits.device)
        sums = fresh if sums is None else torch.cat((sums, fresh), 2)
        size = (height, column.stop - column.start)
        step = max(1, 2**24 // (size[0] * size[1]))  # classes do not mix
        for some in range(0, classes, step):
            part = slice(some, some + step)
            sums[part] += resize_logits(logits[:, part].float(), size, align_corners)[0]
        end = columns[number + 1].start if number + 1 < len(columns) else width
        extent = end - column.start
        counts = row_counts[:complete, None] * column_counts[None, column.start : end]
        mean = sums[:, :complete, :extent] / counts.to(sums)
        mask[:, column.start : end] = mean.argmax(0).to(torch.uint8).cpu().numpy()
        if after.rows:
            after.write(column.start, sums[:, complete:, :extent])
        sums = sums[:, :, extent:]
    return mask


def _windows(logits_of: LogitsOf, band: Tensor, columns: list[slice], batch: int) -> Iterator[tuple[slice, Tensor]]:
    for first in range(0, len(columns), batch):
        together = columns[first : first + batch]
        logits = logits_of(torch.stack([band[:, :, column] for column in together]))
        yield from zip(together, logits.split(1))


def rule_of(task: Any, tile: int | None, overlap: int | None) -> Slide:
    """The windows by which a segmentation task sees an image at its own size.

    Args:
        task: Its test-time rule has windows of its own where it is ``Slide``, or ``MultiScale`` of that.
        tile: Their side; None: as the rule has them, else ``TILE``.
        overlap: Of neighbours, in pixels; None: as the rule has it, else a third of the side.

    Raises:
        InputError: They do not go on, or the network gives no logits.
    """
    if not hasattr(task, "head_logits"):
        raise InputError(
            "an exported file gives classes of whole images, no scores to be averaged: tiles need a checkpoint"
        )
    rule = getattr(task.inference, "rule", task.inference)
    if tile is None and isinstance(rule, Slide):
        crop = rule.crop
        stride = rule.stride if overlap is None else tuple(side - overlap for side in crop)
    else:
        crop = (TILE if tile is None else tile,) * 2
        stride = None if overlap is None else tuple(side - overlap for side in crop)
    if min(crop) < 1 or (stride is not None and not all(0 < step <= side for step, side in zip(stride, crop))):
        raise InputError(
            f"tile is {tile} and overlap is {overlap}: tiles of at least 1 pixel overlap by less than a side"
        )
    return Slide(crop, stride, scale=None)
