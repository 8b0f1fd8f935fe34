"""MobileNet V2 with large kernels: the networks of Tables 2 to 4 of the RepLKNet paper, from timm's model.

Ding et al., "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", CVPR 2022, section 3: large
kernels need shortcuts (Table 2: 3 x 3 or 13 x 13 everywhere, with and without), a parallel small kernel while training
(Table 3), and pay on maps as small as they are, too (Table 4: 3, 7 or 13 in the last stage). No weights were published.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import timm
from timm.models import register_model
from torch import nn

from lk_downstream.backbones.blocks import ReparamLargeKernelConv, depthwise_conv
from lk_downstream.errors import InputError

LAST = ("5", "6")  # names of the stages of timm's model at stride 32


@register_model
def mobilenetv2_large_kernel(
    pretrained: bool = False,
    kernel: int = 13,
    small_kernel: int = 0,
    stages: Literal["all", "last"] = "all",
    shortcuts: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """MobileNet V2 whose depthwise 3 x 3 convolutions, those of stride 2 too, are larger.

    Args:
        pretrained: refused: there are no weights.
        kernel: side of the kernels, odd; 3 for MobileNet V2 as it is.
        small_kernel: side of a parallel kernel, as RepLKNet's, that :func:`lk_downstream.reparameterize` merges; 0 for
            none. The paper's has 3.
        stages: ``all``, or the ``last``, whose maps have stride 32.
        shortcuts: add the input of a block to its output where it has the same form.
        **kwargs: of timm's mobilenetv2_100.

    Raises:
        InputError: weights are asked for, or a kernel is not odd.
    """
    if pretrained:
        raise InputError("mobilenetv2_large_kernel has no published weights: leave pretrained out")
    if kernel % 2 == 0 or kernel < 3 or (small_kernel and small_kernel % 2 == 0):
        raise InputError(f"mobilenetv2_large_kernel: kernels are odd, not {kernel} and {small_kernel}")
    model = timm.create_model("mobilenetv2_100", **kwargs)
    for name, stage in model.blocks.named_children():
        for block in stage.modules():
            if hasattr(block, "conv_dw"):
                block.has_skip &= shortcuts
                if kernel > 3 and (stages == "all" or name in LAST):
                    _enlarge(block, kernel, small_kernel)
    return model


def _enlarge(block: nn.Module, kernel: int, small_kernel: int) -> None:
    """Replace the depthwise convolution of a block, and its norm where the branches have their own."""
    old = block.conv_dw
    factory = {"device": old.weight.device, "dtype": old.weight.dtype}
    stride = old.stride[0]
    if small_kernel:
        block.conv_dw = ReparamLargeKernelConv(old.out_channels, kernel, small_kernel, stride=stride, **factory)
        norm = "bn2" if hasattr(block, "conv_pwl") else "bn1"  # that behind it
        setattr(block, norm, getattr(block, norm).act)
    else:
        block.conv_dw = depthwise_conv(old.out_channels, kernel, stride, **factory)
    for conv in block.conv_dw.modules():
        if isinstance(conv, nn.Conv2d):  # as timm does, by the outputs that a weight has
            nn.init.normal_(conv.weight, 0, math.sqrt(2 / math.prod(conv.kernel_size)))
