"""The large-kernel depthwise convolution as a layer, and its use in models of others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lk_downstream.errors import InputError, near_names
from lk_downstream.ops.large_kernel import BACKENDS, FEWEST_TAPS, depthwise_conv2d


class LargeKernelConv2d(nn.Conv2d):
    """Drop-in for a depthwise ``nn.Conv2d``: the same arguments, parameters and state dict, computed faster.

    Maps (N, C, H, W) or (C, H, W). Where :func:`supports` is false (even kernels, stride or dilation other than 1,
    another padding than kernel // 2, padding modes, groups other than channels) it computes exactly as ``nn.Conv2d``.

    Attributes:
        backend: as in :func:`~lk_downstream.ops.depthwise_conv2d`; ``"auto"`` unless set.
    """

    backend: str = "auto"

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of ``x``."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        if not supports(self):
            return super().forward(x)
        if isinstance(x, Tensor) and x.dim() == 3:
            return depthwise_conv2d(x.unsqueeze(0), self.weight, self.bias, self.backend).squeeze(0)
        return depthwise_conv2d(x, self.weight, self.bias, self.backend)


def supports(conv: nn.Conv2d) -> bool:
    """Whether ``conv`` is a depthwise convolution with odd kernel, stride and dilation 1, and size-keeping padding."""
    kh, kw = conv.kernel_size
    padding = (kh // 2, kw // 2) if conv.padding == "same" else conv.padding
    return (
        kh % 2 == 1
        and kw % 2 == 1
        and conv.groups == conv.in_channels == conv.out_channels
        and tuple(conv.stride) == (1, 1)
        and tuple(conv.dilation) == (1, 1)
        and padding == (kh // 2, kw // 2)
        and conv.padding_mode == "zeros"
    )


def accelerate(model: nn.Module, backend: str = "auto") -> int:
    """Make the large depthwise convolutions of any model use :func:`~lk_downstream.ops.depthwise_conv2d`, in place.

    A layer that is a plain ``nn.Conv2d``, passes :func:`supports` and has at least 25 taps becomes a
    :class:`LargeKernelConv2d`. It stays the same object with the same parameters and hooks, so that optimizers, state
    dicts and references to it stay valid.

    Args:
        model: for instance timm's ConvNeXt or MetaFormer.
        backend: for these layers, and for the model's own :class:`LargeKernelConv2d` layers.

    Returns:
        The number of layers that use it now.

    Raises:
        InputError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise InputError(
            f"backend={backend!r} is none of {', '.join(BACKENDS)}{near_names(backend, BACKENDS)}; choose one of these"
        )
    count = 0
    for module in model.modules():
        if type(module) is nn.Conv2d and supports(module) and module.weight[0, 0].numel() >= FEWEST_TAPS:
            module.__class__ = LargeKernelConv2d
        if isinstance(module, LargeKernelConv2d):
            module.backend = backend
            count += 1
    return count
