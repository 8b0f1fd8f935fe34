"""What the decode heads are made of, with mmcv's parameter names and initial weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.errors import InputError
from lk_downstream.ops.cpu import memory_format_of
from lk_downstream.ops.watchers import is_recorded, is_transformed


class ConvModule(nn.Module):
    """Convolution without bias, batch norm and ReLU: mmcv's module of this name, whose padding keeps the size.

    The batch norm is a plain one; the task converts it where there are several processes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = nn.ReLU()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolution's weights as mmcv does (He et al. 2015, arXiv:1502.01852, by fan-out)."""
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) -> (N, out_channels, H, W)."""
        return self.activate(self.bn(self.conv(x)))


class AdaptiveMean(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products with matrices that are made from the size of the map.

    PyTorch's own refuses to be deterministic on CUDA, refuses sizes that are no multiples on Apple GPUs, and is written
    into an ONNX file with the bins of the example's size.

    Args:
        size: Height and width of the result, or one number for both.
    """

    def __init__(self, size: int | tuple[int, int]):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) of any type -> (N, C, *size) of the same; sums are taken in float32 at least."""
        if self.size == (1, 1):
            return x.mean((2, 3), keepdim=True)
        accumulated = torch.promote_types(x.dtype, torch.float32)
        rows, columns = (_bins(*sizes, x.device).to(accumulated) for sizes in zip(x.shape[-2:], self.size))
        rows, columns = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
        with _without_autocast(x.device.type):
            means = rows @ x.to(accumulated) @ columns.T  # one after the other: a flattened map ties exports to sizes
        return means.to(x.dtype)

    def extra_repr(self) -> str:
        """The size, for the printed model."""
        return str(self.size)


def _bins(length: int, count: int, device: torch.device) -> Tensor:
    """Bool (count, length): whether a position lies in a bin, which goes from floor(i L / n) to ceil((i + 1) L / n)."""
    number = torch.arange(count, device=device)[:, None]
    first, end = number * length // count, ((number + 1) * length + count - 1) // count
    position = torch.arange(length, device=device)
    return (position >= first) & (position < end)


def _without_autocast(device: str) -> AbstractContextManager:
    """Autocast off where it is on; entered otherwise, it would stand in every exported graph."""
    on = device != "meta" and torch.is_autocast_enabled(device)  # which cannot be asked of meta
    return torch.autocast(device, enabled=False) if on else nullcontext()


class Head(nn.Module):
    """Base of the heads: the last layer, which classifies each pixel, and how maps are resized.

    Args:
        channels: Width of the map that the last layer reads.
        num_classes: Channels of the logits.
        dropout: Probability of dropping a channel before the last layer.
        align_corners: How maps and logits are resized.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float, align_corners: bool):
        super().__init__()
        self.channels = channels
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.conv_seg = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else None

    def init_weights(self) -> None:
        """Let the last layer start small, and draw the layers that are the head's own children once more.

        mmsegmentation does so (``BaseModule.init_weights``); the same seed then gives the same weights.
        """
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)
        for child in self.children():
            if isinstance(child, ConvModule):
                child.init_weights()

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone, finest first -> the map (N, channels, H, W) that the last layer reads."""
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone, finest first -> logits (N, num_classes, H, W)."""
        features = self.features(maps)
        return self.conv_seg(features if self.dropout is None else self.dropout(features))

    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        """Maps of any size -> of the height and width of ``like``."""
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.align_corners)

    def joined(self, maps: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Maps (N, C_i, H_i, W_i) -> one map (N, sum of C_i, H_0, W_0), each resized to the size of the first.

        It lies in the memory order of ``weight`` (O, sum of C_i, kh, kw), that of the convolution that reads it.
        """
        others_follow = torch.compiler.is_compiling() or is_recorded() or is_transformed()
        # PyTorch's gradient of a resize is not deterministic on CUDA, unless F.interpolate knows of it.
        if others_follow or torch.are_deterministic_algorithms_enabled() or len(maps) == 1:
            return torch.cat([maps[0], *(self.resized(x, maps[0]) for x in maps[1:])], dim=1)
        return _Joined.apply(self.align_corners, memory_format_of(weight), *maps)


class _Joined(torch.autograd.Function):
    """Resized maps side by side, each written into its place as soon as it is there.

    ``torch.cat`` wants all of them beside the result, which is the largest tensor of UPerNet.
    """

    @staticmethod
    def forward(ctx, align_corners: bool, order: torch.memory_format, first: Tensor, *others: Tensor) -> Tensor:
        ctx.align_corners, ctx.like, ctx.types = align_corners, [(x.shape, x.dtype) for x in (first, *others)], []
        size, done = first.shape[-2:], first.shape[1]
        joined = None
        for x in others:
            x = F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
            if joined is None:  # now, as autocast may have changed the type
                types = [x.dtype, first.dtype, *(other.dtype for other in others)]
                joined = torch.empty(
                    (first.shape[0], done + sum(other.shape[1] for other in others), *size),
                    dtype=functools.reduce(torch.promote_types, types),
                    device=first.device,
                    memory_format=order,
                )
                joined[:, :done] = first
            ctx.types.append(x.dtype)
            joined[:, done : done + x.shape[1]] = x
            done += x.shape[1]
        return joined

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, *others = grad.split([shape[1] for shape, _ in ctx.like], dim=1)
        grads = [first]
        for part, dtype, (shape, _) in zip(others, ctx.types, ctx.like[1:]):
            part = part.to(dtype)
            grads.append(torch.ops.aten.upsample_bilinear2d_backward(part, part.shape[-2:], shape, ctx.align_corners))
        return None, None, *(x.to(dtype) for x, (_, dtype) in zip(grads, ctx.like))


def check_level(in_channels: Sequence[int], in_index: int) -> None:
    """Refuse a level that the backbone does not have.

    Raises:
        InputError: ``in_index`` is none of its levels.
    """
    if not -len(in_channels) <= in_index < len(in_channels):
        raise InputError(f"in_index {in_index} of the head is out of range: there are {len(in_channels)} levels")
