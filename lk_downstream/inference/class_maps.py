"""Logits that stay at the network's stride until they are needed, so that few full-size class maps are ever held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 2**25  # what resizing and averaging may hold at once, beside their results


@dataclass
class Window:
    """Part of a resized image: its rows, its columns, and its logits (N, classes, h, w) for any h and w."""

    rows: slice
    columns: slice
    logits: Tensor


@dataclass
class ClassMaps:
    """Logits of images at the images' own size, computed for some classes at a time.

    As mmsegmentation has it, logits are resized twice: to the size of the window that the network saw, and, averaged
    where windows overlap, from the size of the resized image to that of the image. Classes do not mix in this, so
    a part of them gives the same values as all of them, for a fraction of the memory.

    Args:
        windows: They cover the resized image.
        resized: Height and width of the resized image.
        size: Height and width of the image.
        align_corners: How logits are resized.
        flipped: Whether the network saw the mirror image.
    """

    windows: list[Window]
    resized: tuple[int, int]
    size: tuple[int, int]
    align_corners: bool = False
    flipped: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, classes, H, W)."""
        return (*self.windows[0].logits.shape[:2], *self.size)

    def part(self, classes: slice) -> Tensor:
        """Logits float32 (N, some classes, H, W)."""
        if len(self.windows) == 1:
            maps = self._resize(self.windows[0].logits[:, classes].float(), self.resized)
        else:
            maps = self._average(classes)
        maps = self._resize(maps, self.size)
        return maps.flip(-1) if self.flipped else maps

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All classes, as many at a time as fit into the memory set aside for it."""
        pixels = max(self.size[0] * self.size[1], self.resized[0] * self.resized[1])
        number, total = self.shape[:2]
        step = max(1, CHUNK_BYTES // (4 * number * pixels))
        for first in range(0, total, step):
            classes = slice(first, min(first + step, total))
            yield classes, self.part(classes)

    def full(self) -> Tensor:
        """Logits float32 (N, classes, H, W)."""
        full = None
        for window in self.windows:  # one memory order: parts of a channels-last map are slow to copy into a whole one
            window.logits = window.logits.contiguous()
        for classes, maps in self.chunks():
            if maps.shape[1] == self.shape[1]:
                return maps
            full = maps.new_empty(self.shape) if full is None else full
            full[:, classes] = maps
        return full

    def argmax(self) -> Tensor:
        """Class indices uint8 (N, H, W)."""
        best = index = None
        for classes, maps in self.chunks():
            value, position = maps.max(1)
            position = position.to(torch.uint8).add_(classes.start)
            if best is None:
                best, index = value, position
            else:
                index = torch.where(value > best, position, index)  # of equal ones the first, as torch.argmax
                best = torch.maximum(best, value)
        return index

    def _average(self, classes: slice) -> Tensor:
        total = count = None
        for window in self.windows:
            rows, columns = window.rows, window.columns
            size = (rows.stop - rows.start, columns.stop - columns.start)
            maps = self._resize(window.logits[:, classes].float(), size)
            if total is None:
                total = maps.new_zeros(*maps.shape[:2], *self.resized)
                count = maps.new_zeros(self.resized)
            total[..., rows, columns] += maps
            count[rows, columns] += 1
        return total.div_(count)

    def _resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return resize_logits(maps, size, self.align_corners)


def resize_logits(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Logits (N, classes, h, w) at another height and width."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)


def add_softmax(total: Tensor, logits: Tensor) -> None:
    """Add ``logits.softmax(1)`` to ``total``, both (N, classes, H, W), in strips of rows."""
    rows = max(1, CHUNK_BYTES // 4 // (logits[:, :, :1].numel() * 4))
    for first in range(0, logits.shape[2], rows):
        strip = slice(first, first + rows)
        total[:, :, strip] += logits[:, :, strip].softmax(1)
