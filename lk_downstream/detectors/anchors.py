"""Anchors and points: where on the image each cell of a feature map predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_points(shape: tuple[int, int], stride: int, device: torch.device, offset: float = 0.5) -> Tensor:
    """Points (H * W, 2) as (x, y) in pixels of the image, row by row; offset 0.5 is the middle of each cell."""
    height, width = shape
    y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
    x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
    # Not by repeat_interleave, of which torch.onnx writes the number of repetitions as a constant.
    return torch.stack((x[None].expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1)


class AnchorGenerator:
    """Anchors around the corners of the cells, neither rounded nor moved to their middle (mmdet 2.0 and later).

    Args:
        strides: of the maps. An anchor of scale 1 and ratio 1 has the stride as its side.
        scales: sides in strides.
        ratios: height over width, at constant area.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float]):
        self.strides = tuple(strides)
        self.per_cell = len(scales) * len(ratios)
        root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
        scale = torch.tensor(scales, dtype=torch.float32)[None, :]
        self.base = []
        for stride in self.strides:
            width, height = (stride * (1 / root) * scale).flatten(), (stride * root * scale).flatten()
            self.base.append(torch.stack((-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height), dim=-1))

    def __call__(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Anchors (H * W * A, 4) as x1, y1, x2, y2 for each map shape (H, W)."""
        levels = []
        for shape, stride, base in zip(shapes, self.strides, self.base):
            points = grid_points(shape, stride, device, offset=0.0).repeat(1, 2)
            levels.append((points[:, None] + base.to(device, non_blocking=True)).reshape(-1, 4))
        return levels

    def within(
        self, shapes: Sequence[tuple[int, int]], size: tuple[int, int], divisor: int, device: torch.device
    ) -> Tensor:
        """Whether each anchor's cell lies on an image of ``size`` (h, w), padded alone to multiples of ``divisor``.

        The rest of the batch's padding gives no anchors in training: with it an image's loss would depend on its
        neighbours' sizes.
        """
        height, width = (-(-side // divisor) * divisor for side in size)
        flags = []
        for (rows, columns), stride in zip(shapes, self.strides):
            row = torch.arange(rows, device=device) * stride < height
            column = torch.arange(columns, device=device) * stride < width
            flags.append((row[:, None] & column).flatten().repeat_interleave(self.per_cell))
        return torch.cat(flags)
