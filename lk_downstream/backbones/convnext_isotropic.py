"""Isotropic ConvNeXt as timm models: one stage at stride 16, as in a plain vision transformer.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, section 3.3; models/convnext_isotropic.py of the authors' repository
(facebookresearch/ConvNeXt, MIT). Blocks, head and names are those of timm's ConvNeXt; the authors' files are converted
on load. The models have no pyramid: they are for classification.
"""

from functools import partial

import torch
from timm.layers import LayerNorm, LayerNorm2d, NormMlpClassifierHead, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from lk_downstream.backbones import registry
from lk_downstream.backbones.blocks import Blocks, checkpointed
from lk_downstream.backbones.timm_model import build, refuse_output_stride

SIZES = {
    "convnext_isotropic_small": {"depth": 18, "dim": 384},
    "convnext_isotropic_base": {"depth": 18, "dim": 768},
    "convnext_isotropic_large": {"depth": 36, "dim": 1024, "ls_init_value": 1e-6},
}


class ConvNeXtIsotropic(nn.Module):
    """Images (N, in_chans, H, W) -> logits (N, num_classes).

    Args:
        num_classes: classes; 0 for pooled features.
        in_chans: input channels.
        global_pool: timm's pooling name.
        depth: number of blocks.
        dim: channels.
        ls_init_value: initial layer scale, 0 for none.
        head_init_scale: factor on the classifier's initial weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        output_stride: only 16: there is one stride.
        device: of parameters and buffers.
        dtype: likewise.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        depth: int = 18,
        dim: int = 384,
        ls_init_value: float = 0.0,
        head_init_scale: float = 1.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        refuse_output_stride("Isotropic ConvNeXt", output_stride, 16)
        factory = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = dim
        self.drop_rate = drop_rate
        self.stem = nn.Conv2d(in_chans, dim, 16, 16, **factory)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        block = partial(
            ConvNeXtBlock,
            dim,
            norm_layer=partial(LayerNorm, eps=1e-6),
            ls_init_value=ls_init_value or None,
            **factory,
        )
        self.blocks = Blocks(*(block(drop_path=rate) for rate in rates))
        self.feature_info = [{"num_chs": dim, "reduction": 16, "module": f"blocks.{i}"} for i in range(depth)]
        norm2d = partial(LayerNorm2d, eps=1e-6)
        self.head = NormMlpClassifierHead(
            dim, num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=norm2d, **factory
        )
        self.apply(self._init_weights)
        for parameter in self.head.fc.parameters():
            parameter.data.mul_(head_init_scale)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside the 1-D ones: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layer groups of timm, from input to output: one per block, coarse or not."""
        return {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of blocks in the backward pass."""
        self.blocks.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes`` (0: none), with another pooling if given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head.to(self.stem.weight.device, self.stem.weight.dtype).train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Final map and block outputs, or only these; see timm's method of this name (``norm`` is without effect)."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, not {output_fmt}")
        wanted, last = feature_take_indices(len(self.blocks), indices)
        maps = []
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index <= last or not stop_early:
                if self.blocks.grad_checkpointing and not torch.jit.is_scripting():
                    x = checkpointed(block, x)
                else:
                    x = block(x)
                if index in wanted:
                    maps.append(x)
        if intermediates_only:
            return maps
        return x, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove blocks after the last wanted one, and the head; see timm's method of this name.

        ``prune_norm`` is without effect, as in timm's ConvNeXt: the norm belongs to the head.
        """
        wanted, last = feature_take_indices(len(self.blocks), indices)
        shortened = last + 1 < len(self.blocks)
        del self.blocks[last + 1 :]
        if prune_head or shortened:
            self.head.norm = nn.Identity()
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> map (N, dim, floor(H / 16), floor(W / 16)), before the norm."""
        return self.blocks(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map -> logits, or the pooled and normalised features."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        f"{model}.{name}": {
            **registry.timm_cfg(weights),
            "pool_size": (14, 14),
            "first_conv": "stem",
            "classifier": "head.fc",
        }
        for model in SIZES
        for name, weights in registry.PUBLISHED[model].items()
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict) -> ConvNeXtIsotropic:
    return build(
        ConvNeXtIsotropic, variant, SIZES[variant], 3, pretrained, kwargs
    )  # the last three, as of timm's plain transformers


@register_model
def convnext_isotropic_small(pretrained: bool = False, **kwargs) -> ConvNeXtIsotropic:
    """Isotropic ConvNeXt-S, 22 M parameters."""
    return _create("convnext_isotropic_small", pretrained, kwargs)


@register_model
def convnext_isotropic_base(pretrained: bool = False, **kwargs) -> ConvNeXtIsotropic:
    """Isotropic ConvNeXt-B, 87 M parameters."""
    return _create("convnext_isotropic_base", pretrained, kwargs)


@register_model
def convnext_isotropic_large(pretrained: bool = False, **kwargs) -> ConvNeXtIsotropic:
    """Isotropic ConvNeXt-L, 306 M parameters."""
    return _create("convnext_isotropic_large", pretrained, kwargs)
