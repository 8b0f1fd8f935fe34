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


def exact(tensor: Tensor) -> Tensor:
    """A tensor in float64, on the CPU: not every GPU has that type. What is on the meta device stays there."""
    return (tensor if tensor.is_meta else tensor.cpu()).double()


def batch_norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,), float64 on the CPU, of the affine map that a batch norm is in eval mode.

    Raises:
        TypeError: ``norm`` is not a batch norm with running statistics.
    """
    if not isinstance(norm, BATCH_NORM) or norm.running_mean is None:
        raise TypeError(f"only a batch norm with running statistics can be folded, not {type(norm).__name__}")
    scale = (exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * exact(norm.weight)
    shift = -exact(norm.running_mean) * scale
    return scale, shift if norm.bias is None else shift + exact(norm.bias)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (O, I/g, kh, kw) and bias (O,) of the one convolution that equals ``norm(conv(x))`` in eval mode.

    With ``s = gamma / sqrt(var + eps)`` the weight is ``s * w`` and the bias ``beta + s * (b - mean)``. It is computed
    in float64 and returned in the dtype and on the device of the convolution.

    Raises:
        TypeError: ``norm`` is not a batch norm with running statistics.
    """
    scale, bias = batch_norm_affine(norm)
    if conv.bias is not None:
        bias = bias + exact(conv.bias) * scale
    weight = exact(conv.weight) * scale.reshape(-1, 1, 1, 1)
    return weight.to(conv.weight), bias.to(conv.weight)


@torch.no_grad()
def fuse_conv_bn(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Give ``conv`` the weight and bias of ``norm(conv(x))`` in eval mode, in place; always exact.

    Raises:
        TypeError: as :func:`fold_batch_norm`.
    """
    weight, bias = fold_batch_norm(conv, norm)
    conv.weight.copy_(weight)
    conv.bias = nn.Parameter(bias)


@torch.no_grad()
def fuse_bn_conv1x1(norm: nn.Module, conv: nn.Conv2d) -> None:
    """Give ``conv`` the weight and bias of ``conv(norm(x))`` in eval mode, in place.

    For a 1 x 1 convolution without padding this is exact. Padding is zero after the norm, not before it, so no
    bias per channel can stand for the shift of a norm in front of a padded convolution: it would be wrong at borders.

    Raises:
        ValueError: the convolution is padded, or larger than 1 x 1, or has groups.
        TypeError: ``norm`` is not a batch norm with running statistics.
    """
    if conv.kernel_size != (1, 1) or conv.padding not in ((0, 0), "valid", "same") or conv.groups != 1:
        raise ValueError(f"a batch norm can only be folded into a 1x1 convolution behind it, not into {conv}")
    scale, shift = batch_norm_affine(norm)
    weight = exact(conv.weight)
    bias = weight.flatten(1) @ shift
    if conv.bias is not None:
        bias = bias + exact(conv.bias)
    conv.bias = nn.Parameter(bias.to(conv.weight))
    conv.weight.copy_(weight * scale.reshape(1, -1, 1, 1))


@torch.no_grad()
def fuse_layer_norm_linear(norm: nn.LayerNorm, linear: nn.Linear) -> nn.LayerNorm:
    """Give ``linear`` the scale and shift of the layer norm before it, in place; returns the norm without them."""
    weight = exact(linear.weight)
    if norm.bias is not None:
        bias = weight @ exact(norm.bias)
        linear.bias = nn.Parameter((bias if linear.bias is None else bias + exact(linear.bias)).to(linear.weight))
    if norm.weight is not None:
        linear.weight.copy_(weight * exact(norm.weight))
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


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

    The branches must share channels, groups, stride and dilation 1, and be padded by half their kernel (kernel // 2).
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
