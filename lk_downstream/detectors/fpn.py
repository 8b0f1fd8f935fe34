"""Feature pyramid network (Lin et al. 2017), with the extra levels of RPN, RetinaNet and FCOS."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.errors import InputError


@dataclass(frozen=True)
class FPNSettings:
    """Settings of the feature pyramid.

    Attributes:
        channels: channels of every level.
        levels: number of output levels; those beyond the backbone's are made from the coarsest.
        finest_stride: backbone maps finer than this stride are not used (mmdet's ``start_level``).
        extra: how the extra levels are made: ``"pool"`` (every second pixel of the last; two-stage detectors), or a
            stride-2 convolution of the last output (``"output"``, FCOS) or of the backbone's last map (``"input"``,
            RetinaNet).
        extra_relu: ReLU before every extra convolution but the first (FCOS).
    """

    channels: int = 256
    levels: int = 5
    finest_stride: int = 4
    extra: Literal["pool", "output", "input"] = "pool"
    extra_relu: bool = False


class FPN(nn.Module):
    """Feature pyramid with mmdet's parameter names (``mmdet/models/necks/fpn.py``).

    Args:
        in_channels: channels of the backbone's maps, finest first.
        in_strides: their strides.
        settings: see `FPNSettings`.

    Attributes:
        channels: channels of every output.
        strides: strides of the outputs.

    Raises:
        InputError: the backbone has no map as coarse as ``finest_stride``, or more than ``levels`` of them.
    """

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int], settings: FPNSettings):
        super().__init__()
        self.extra, self.extra_relu = settings.extra, settings.extra_relu
        self.channels = settings.channels
        self.used = [i for i, stride in enumerate(in_strides) if stride >= settings.finest_stride]
        if not 0 < len(self.used) <= settings.levels:
            raise InputError(
                f"the neck makes {settings.levels} levels from the backbone's maps of stride {settings.finest_stride} "
                f"and coarser, but the strides are {tuple(in_strides)}: change neck.finest_stride, neck.levels or the "
                "backbone's out_indices"
            )
        extra = settings.levels - len(self.used)
        strides = [in_strides[i] for i in self.used]
        self.strides = tuple(strides + [strides[-1] * 2 ** (i + 1) for i in range(extra)])

        def conv(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
            layer = nn.Conv2d(channels, self.channels, kernel, stride, kernel // 2)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            return nn.Sequential(OrderedDict(conv=layer))

        self.lateral_convs = nn.ModuleList(conv(in_channels[i], 1) for i in self.used)
        self.fpn_convs = nn.ModuleList(conv(self.channels, 3) for _ in self.used)
        if self.extra != "pool":
            first = in_channels[self.used[-1]] if self.extra == "input" else self.channels
            self.fpn_convs.extend(conv(first if i == 0 else self.channels, 3, stride=2) for i in range(extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turns the backbone's maps (N, C_i, H_i, W_i), finest first, into maps (N, channels, H_i, W_i)."""
        maps = [maps[i] for i in self.used]
        merged = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, merged)]
        source = maps[-1] if self.extra == "input" else outputs[-1]
        for i in range(len(outputs), len(self.strides)):
            if self.extra == "pool":
                source = source[:, :, ::2, ::2]
            else:
                relu = self.extra_relu and i > len(maps)
                source = self.fpn_convs[i](F.relu(source) if relu else source)
            outputs.append(source)
        return outputs
