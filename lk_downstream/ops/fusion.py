"""Folding of batch norms into convolutions, and the merging of parallel convolutions into one.

All of it holds in eval mode only, where a batch norm is an affine map per channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# nn.BatchNorm2d and nn.SyncBatchNorm are siblings: their common base matches a model before and after conversion.
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def fold_batch_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (O, I/g, kh, kw) and bias (O,) of the one convolution that equals ``norm(conv(x))`` in eval mode.

    With ``s = gamma / sqrt(var + eps)`` the weight is ``s * w`` and the bias ``beta + s * (b - mean)``. It is computed
    in float64 and returned in the dtype of the convolution.

    Raises:
        TypeError: ``norm`` is not a batch norm with running statistics.
    """
    if not isinstance(norm, BATCH_NORM) or norm.running_mean is None:
        raise TypeError(f"only a batch norm with running statistics can be folded, not {type(norm).__name__}")
    dtype = conv.weight.dtype
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = conv.bias.double() if conv.bias is not None else torch.zeros_like(scale)
    bias = (bias - norm.running_mean.double()) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * scale.reshape(-1, 1, 1, 1)
    return weight.to(dtype), bias.to(dtype)


def pad_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The kernels (O, I, h, w) zero-padded around their centre to (O, I, *size).

    Raises:
        ValueError: a side would shrink, or grow by an odd number (the centre would move by half a pixel).
    """
    pads = [size[i] - weight.shape[2 + i] for i in (0, 1)]
    if min(pads) < 0 or any(pad % 2 for pad in pads):
        raise ValueError(f"a {tuple(weight.shape[2:])} kernel cannot be centred in {tuple(size)}")
    return F.pad(weight, (pads[1] // 2, pads[1] // 2, pads[0] // 2, pads[0] // 2))


@torch.no_grad()
def merge_conv_bn(branches: Sequence[tuple[nn.Conv2d, nn.Module]], size: tuple[int, int] | None = None) -> nn.Conv2d:
    """One convolution with bias that equals the sum of parallel convolution-batch norm branches in eval mode.

    The branches must share channels, groups, stride and dilation 1, and be padded to keep the size (kernel // 2).
    The result has the class, device and dtype of the first branch's convolution. See RepLKNet (Ding et al. 2022),
    section 3.2, and ``merge_kernel`` in replknet.py of its authors.

    Args:
        branches: (convolution, batch norm) pairs.
        size: kernel height and width of the result; by default the smallest that holds every branch.
    """
    first = branches[0][0]
    if size is None:
        size = tuple(max(conv.kernel_size[i] for conv, _ in branches) for i in (0, 1))
    folded = [fold_batch_norm(conv, norm) for conv, norm in branches]
    merged = type(first)(
        first.in_channels,
        first.out_channels,
        size,
        stride=first.stride,
        padding=(size[0] // 2, size[1] // 2),
        groups=first.groups,
        bias=True,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    merged.weight.copy_(sum(pad_kernel(weight, size) for weight, _ in folded))
    merged.bias.copy_(sum(bias for _, bias in folded))
    return merged.train(first.training)
