"""UPerNet's head (Xiao et al. 2018, arXiv:1807.10221), with mmsegmentation's parameter names and initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lk_downstream.heads.layers import AdaptiveMean, ConvModule, Head


class UPerHead(Head):
    """UPerNet's head: pyramid pooling on the coarsest map, a feature pyramid, and a fusion of all levels.

    Published checkpoints load (mmsegmentation's ``UPerHead``); the defaults are those of its configs of UPerNet.

    Args:
        in_channels: Channels of the backbone's maps, finest first; all are used.
        num_classes: Channels of the logits.
        channels: Width of every layer of the head.
        pool_scales: Side lengths of the pooled maps.
        dropout: Probability of dropping a channel before the last layer.
        align_corners: How maps and logits are resized; True in the Cityscapes recipe of RepLKNet.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        align_corners: bool = False,
    ):
        super().__init__(channels, num_classes, dropout, align_corners)
        self.in_channels = list(in_channels)
        coarsest = self.in_channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AdaptiveMean(scale), ConvModule(coarsest, channels, 1)) for scale in pool_scales
        )
        self.bottleneck = ConvModule(coarsest + len(pool_scales) * channels, channels, 3)
        self.lateral_convs, self.fpn_convs = nn.ModuleList(), nn.ModuleList()
        for width in self.in_channels[:-1]:  # of a level both, which is the order of the random draws
            self.lateral_convs.append(ConvModule(width, channels, 1))
            self.fpn_convs.append(ConvModule(channels, channels, 3))
        self.fpn_bottleneck = ConvModule(len(self.in_channels) * channels, channels, 3)
        self.init_weights()

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """See :class:`Head`; the result has the size of the finest map."""
        return self.fpn_bottleneck(self._levels(maps))

    def _levels(self, maps: Sequence[Tensor]) -> Tensor:
        """All levels at the size of the finest, as one map (N, levels * channels, H, W)."""
        level = self._pooled(maps[-1])
        levels = [level]
        for index in reversed(range(len(self.lateral_convs))):  # top-down; finest first in the result
            lateral = self.lateral_convs[index](maps[index])
            level = lateral + self.resized(level, lateral)
            levels.insert(0, self.fpn_convs[index](level))
        return self.joined(levels, self.fpn_bottleneck.conv.weight)

    def _pooled(self, x: Tensor) -> Tensor:
        """The coarsest map (N, in_channels, H, W) with its surroundings -> (N, channels, H, W)."""
        pooled = [x, *(module(x) for module in self.psp_modules)]
        return self.bottleneck(self.joined(pooled, self.bottleneck.conv.weight))
