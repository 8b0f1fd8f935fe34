"""The head of fully convolutional networks (Long et al. 2015, arXiv:1411.4038), by mmsegmentation's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lk_downstream.errors import InputError
from lk_downstream.heads.layers import ConvModule, Head, check_level


class FCNHead(Head):
    """Convolutions on one level: the auxiliary head of the published recipes.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        num_classes: Channels of the logits.
        in_index: The level that is read.
        channels: Width of the convolutions.
        num_convs: Number of 3x3 convolutions; with none, ``channels`` are those of the level.
        concat_input: Whether the input joins the last convolution's output before one more convolution.
        dropout: Probability of dropping a channel before the last layer.
        align_corners: How logits are resized.

    Raises:
        InputError: There is no such level, or no convolution that makes ``channels`` of it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        in_index: int = 2,
        channels: int = 256,
        num_convs: int = 1,
        concat_input: bool = False,
        dropout: float = 0.1,
        align_corners: bool = False,
    ):
        super().__init__(channels, num_classes, dropout, align_corners)
        check_level(in_channels, in_index)
        self.in_channels, self.in_index = in_channels[in_index], in_index
        if num_convs < 0:
            raise InputError(f"num_convs of the head is {num_convs}: it must be at least 0")
        if num_convs == 0 and channels != self.in_channels:
            raise InputError(
                f"a head without convolutions has the channels of its level: set channels to {self.in_channels}, or "
                "num_convs to 1"
            )
        widths = [self.in_channels] + [channels] * max(num_convs, 1)  # mmsegmentation draws one, if only to drop it
        convs = [ConvModule(before, after, 3) for before, after in zip(widths, widths[1:])]
        self.convs = nn.Sequential(*convs) if num_convs else nn.Identity()
        if concat_input:
            self.conv_cat = ConvModule(self.in_channels + channels, channels, 3)
        self.concat_input = concat_input
        self.init_weights()

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """See :class:`Head`; the result has the size of the level that is read."""
        x = maps[self.in_index]
        features = self.convs(x)
        return self.conv_cat(torch.cat([x, features], dim=1)) if self.concat_input else features
