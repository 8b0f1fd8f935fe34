"""The cross-entropy of each pixel, without more maps of all classes than it needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lk_downstream.ops.watchers import is_transformed


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Logits (N, C, H, W) and class indices (N, H, W) -> the cross-entropy of each pixel, (N, H, W)."""
    if torch.compiler.is_compiling() or is_transformed():
        return -along_classes(torch.log_softmax, logits).gather(1, target[:, None])[:, 0]
    return _CrossEntropy.apply(logits, target)


class _CrossEntropy(torch.autograd.Function):
    """Keeps the logits alone and works image by image.

    A map of all classes at the size of the images is hundreds of megabytes; PyTorch holds the log-probabilities, and
    in the backward pass two more of them.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(logits, target)
        dim, logits = _classes_last(logits)
        entropy = logits.new_empty(target.shape)
        for x, y, out in zip(logits, target.unsqueeze(dim + 1), entropy.unsqueeze(dim + 1)):
            torch.neg(torch.log_softmax(x, dim).gather(dim, y), out=out)
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        result = torch.empty_like(logits)
        (dim, logits), (_, results) = _classes_last(logits), _classes_last(result)
        for x, y, g, out in zip(logits, target.unsqueeze(dim + 1), grad.unsqueeze(dim + 1), results):
            torch.softmax(x, dim, out=out).mul_(g)
            out.scatter_(dim, y, out.gather(dim, y) - g)
        return result, None


def _classes_last(logits: Tensor) -> tuple[int, Tensor]:
    """The axis of the classes in an image, and (N, C, H, W) as (N, H, W, C) where it lies in memory so.

    Softmax over the innermost axis takes half the time of softmax over axis 1 in that memory order.
    """
    if logits.is_contiguous(memory_format=torch.channels_last):
        return 2, logits.permute(0, 2, 3, 1)
    return 0, logits


def along_classes(function: Callable[[Tensor, int], Tensor], logits: Tensor) -> Tensor:
    """Softmax or its like over the classes of (N, C, H, W), of the same shape."""
    dim, view = _classes_last(logits)
    result = function(view, dim + 1)
    return result.permute(0, 3, 1, 2) if dim else result
