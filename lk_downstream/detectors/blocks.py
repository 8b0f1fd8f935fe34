"""The convolution block of mmdet's heads, and their initial weights."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn


def conv_block(in_channels: int, out_channels: int, norm: str | None = None) -> nn.Sequential:
    """A 3x3 convolution, a norm and a ReLU, under the names of mmdet's ``ConvModule`` (``conv``, ``bn`` or ``gn``).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        norm: ``"bn"``, ``"gn"`` (32 groups, in narrow heads fewer of 8 channels), or None: a bias instead.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm is None)
    if norm == "bn":
        layers["bn"] = nn.BatchNorm2d(out_channels)
    elif norm == "gn":
        layers["gn"] = nn.GroupNorm(math.gcd(32, max(out_channels // 8, 1), out_channels), out_channels)
    layers["activate"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def init_normal(module: nn.Module, std: float, prior: float | None = None) -> None:
    """Draws the weights of all convolutions and linear layers in ``module`` from N(0, std) and zeroes their biases.

    Args:
        module: changed in place.
        std: standard deviation of the weights.
        prior: probability at the start, which the bias is set to (focal loss paper, section 4.1); None: a bias of 0.
    """
    bias = 0.0 if prior is None else -math.log((1 - prior) / prior)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)


def init_kaiming(module: nn.Module) -> None:
    """He's normal initialisation (fan out, ReLU) of all convolutions in ``module``; biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def flatten_maps(maps: list[Tensor], channels: int) -> list[Tensor]:
    """Turns maps (N, A * channels, H, W) into float32 rows (N, H * W * A, channels), in the order of the anchors.

    Float32, whatever autocast made of the maps: boxes are decoded and losses computed in it.
    """
    return [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels).float() for x in maps]


class Scale(nn.Module):
    """One learnt factor, as mmdet's (FCOS has one per level)."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` times the factor."""
        return x * self.scale
