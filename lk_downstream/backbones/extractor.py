"""Multi-scale feature extraction from any timm model with maps at strides 4, 8, 16 and 32."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from timm.models import ConvNeXt
from torch import Tensor, nn

from lk_downstream.backbones.slak import SLaK

STRIDES = (4, 8, 16, 32)


def is_prenorm(body: nn.Module) -> bool:
    """Whether the maps of a network are sums of blocks that no norm has seen, as ConvNeXt's."""
    return isinstance(body, (ConvNeXt, SLaK)) or getattr(body, "prenorm", False)


class Backbone(nn.Module):
    """Images (N, 3, H, W) -> list of maps (N, channels[i], H / strides[i], W / strides[i]), finest first.

    ConvNeXt, SLaK and what else :func:`is_prenorm` get a LayerNorm over channels on every returned map, ``norm0`` to
    ``norm3`` by pyramid level, as in the authors' segmentation and detection models. The network itself, without final
    norm and classifier, is ``body``.

    Attributes:
        name: timm's name of the model.
        channels: channels of the returned maps.
        strides: strides of the returned maps. Odd input sizes are rounded as the model rounds them.
        mean: what the input is to be normalised by, for pixels in 0..1.
        std: likewise.
    """

    def __init__(
        self,
        body: nn.Module,
        name: str,
        levels: Sequence[int],
        indices: Sequence[int],
        channels: Sequence[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ):
        """Wrap ``body``, whose maps number ``indices`` have ``channels`` and belong to pyramid ``levels``."""
        super().__init__()
        self.body = body
        self.name = name
        self.levels = tuple(levels)
        self.indices = list(indices)
        self.channels = tuple(channels)
        self.strides = tuple(STRIDES[level] for level in levels)
        self.mean = mean
        self.std = std
        self._channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        if is_prenorm(body):
            for level, width in zip(levels, channels):
                self.add_module(f"norm{level}", LayerNorm2d(width, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W), normalised by ``mean`` and ``std`` -> one map per level, finest first."""
        if hasattr(self.body, "forward_intermediates"):
            maps = self.body.forward_intermediates(x, indices=self.indices, stop_early=True, intermediates_only=True)
            assert isinstance(maps, list)  # for TorchScript: the method may also return a pair
        else:
            maps = self.body(x)
            if self._channels_last:
                maps = [item.permute(0, 3, 1, 2) for item in maps]
        normed: list[Tensor] = []
        for name, norm in self.named_children():
            if name != "body":
                normed.append(norm(maps[len(normed)]))
        return normed if len(normed) > 0 else maps
