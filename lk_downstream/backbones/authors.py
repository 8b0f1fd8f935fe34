"""The form in which the networks' authors run them, to measure against."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from lk_downstream.backbones.replknet import RepLKNet
from lk_downstream.backbones.slak import SLaK


class ChannelsFirstLayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W) in elementary steps, which leave contiguous maps contiguous.

    So do the layer norms between the stages of SLaK in its authors' code. timm's, which our models have,
    permutes the map: what it returns lies in channels_last, and so does everything behind it, which makes PyTorch's
    depthwise convolutions several times faster.
    """

    def __init__(self, norm: LayerNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map of the same shape and layout."""
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


def authors_form(model: nn.Module) -> nn.Module | None:
    """RepLKNet or SLaK, changed in place so that contiguous images stay contiguous maps from end to end; else None."""
    if not isinstance(model, (RepLKNet, SLaK)):
        return None
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, LayerNorm2d):
                setattr(parent, name, ChannelsFirstLayerNorm(child))
    return model.to(memory_format=torch.contiguous_format)
