"""RepLKNet as timm models: 31B, 31L and XL.

Ding et al., "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs", CVPR 2022. The structure and
the state-dict keys are those of replknet.py in the authors' repository (DingXiaoH/RepLKNet-pytorch, MIT). Batch norms
are plain ones: a trainer that wants synchronised ones converts them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from lk_downstream.backbones import registry
from lk_downstream.backbones.blocks import (
    Blocks,
    ReparamLargeKernelConv,
    checkpointed,
    conv_bn,
    depthwise_conv,
    fuse_sequence,
)
from lk_downstream.backbones.timm_model import build, new_head, refuse_output_stride
from lk_downstream.ops.fusion import BATCH_NORM, fuse_bn_conv1x1

SIZES = {
    "replknet_31b": {"channels": (128, 256, 512, 1024)},
    "replknet_31l": {"channels": (192, 384, 768, 1536)},
    "replknet_xl": {
        "channels": (256, 512, 1024, 2048),
        "kernel_sizes": (27, 27, 27, 13),
        "small_kernel": 0,
        "dw_ratio": 1.5,
    },
    "test_replknet": {
        "channels": (24, 48, 72, 96),
        "layers": (1, 1, 2, 1),
        "kernel_sizes": (13, 11, 9, 7),
        "small_kernel": 3,
    },
}


def _conv1x1(in_channels: int, out_channels: int, **factory: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False, **factory)


def _halve(channels: int, **factory: Any) -> nn.Sequential:
    """Depthwise 3 x 3 of stride 2: H -> ceil(H / 2)."""
    return conv_bn(depthwise_conv(channels, 3, stride=2, **factory), act=True)


class RepLKBlock(nn.Module):
    """x + pw2(relu(large_kernel(pw1(bn(x))))): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        small_kernel: int,
        dw_ratio: float,
        drop_path: float,
        merged: bool,
        **factory: Any,
    ):
        super().__init__()
        inner = int(channels * dw_ratio)
        self.pw1 = conv_bn(_conv1x1(channels, inner, **factory), act=True)
        self.pw2 = conv_bn(_conv1x1(inner, channels, **factory))
        self.large_kernel = ReparamLargeKernelConv(inner, kernel_size, small_kernel, merged=merged, **factory)
        self.lk_nonlinear = nn.ReLU()
        self.prelkb_bn = nn.BatchNorm2d(channels, **factory)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def fold_norms(self) -> None:
        """Fold the norm in front into the 1 x 1 convolution behind it, in place; that one's own norm goes first."""
        fuse_sequence(self.pw1)
        if isinstance(self.prelkb_bn, BATCH_NORM):
            fuse_bn_conv1x1(self.prelkb_bn, self.pw1.conv)
            self.prelkb_bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        return x + self.drop_path(self.pw2(self.lk_nonlinear(self.large_kernel(self.pw1(self.prelkb_bn(x))))))


class ConvFFN(nn.Module):
    """x + pw2(gelu(pw1(bn(x)))): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, ffn_ratio: float, drop_path: float, **factory: Any):
        super().__init__()
        inner = int(channels * ffn_ratio)
        self.preffn_bn = nn.BatchNorm2d(channels, **factory)
        self.pw1 = conv_bn(_conv1x1(channels, inner, **factory))
        self.nonlinear = nn.GELU()
        self.pw2 = conv_bn(_conv1x1(inner, channels, **factory))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def fold_norms(self) -> None:
        """As that of :class:`RepLKBlock`."""
        fuse_sequence(self.pw1)
        if isinstance(self.preffn_bn, BATCH_NORM):
            fuse_bn_conv1x1(self.preffn_bn, self.pw1.conv)
            self.preffn_bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        return x + self.drop_path(self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x)))))


class RepLKNetStage(nn.Module):
    """Pairs of RepLKBlock and ConvFFN; ``norm`` acts on the returned map only, never on what the next stage gets."""

    def __init__(self, blocks: list[nn.Module], norm: nn.Module):
        super().__init__()
        self.blocks = Blocks(*blocks)
        self.norm = norm

    def forward(self, x: Tensor, only_norm: bool = False) -> Tensor:
        """All blocks, or what ``norm`` makes of their result.

        Not a call of ``norm`` from outside: what shards a stage has its parameters whole inside of its calls only.
        """
        return self.norm(x) if only_norm else self.blocks(x)


class RepLKNet(nn.Module):
    """RepLKNet with a classifier: images (N, in_chans, H, W) -> logits (N, num_classes).

    Every stride-2 convolution is padded, so the maps are ceil(H / 4), ceil(H / 8), ... high.

    Args:
        num_classes: classes; 0 for pooled features.
        in_chans: input channels.
        global_pool: timm's pooling name; "" for none: unpooled features, or logits for every place of the map.
        channels: channels of the four stages.
        layers: number of (RepLKBlock, ConvFFN) pairs of the four stages.
        kernel_sizes: large kernel of the four stages, or one for all (the paper's ablation has 3, 7, 13, 25 and 31).
        small_kernel: parallel small kernel; 0 for none (timm takes None for "not given").
        dw_ratio: channels inside a RepLKBlock relative to outside.
        ffn_ratio: channels inside a ConvFFN relative to outside.
        norm_intermediate_features: a batch norm on every returned map, as XL has on ADE20K and COCO.
        small_kernel_merged: build the merged form, to load weights that are merged already.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last pair; it grows linearly from 0, both blocks of a pair share theirs.
        output_stride: only 32: there is no dilated form.
        device: of parameters and buffers.
        dtype: likewise.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        channels: Sequence[int] = (128, 256, 512, 1024),
        layers: Sequence[int] = (2, 2, 18, 2),
        kernel_sizes: int | Sequence[int] = (31, 29, 27, 13),
        small_kernel: int = 5,
        dw_ratio: float = 1.0,
        ffn_ratio: float = 4.0,
        norm_intermediate_features: bool = False,
        small_kernel_merged: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        refuse_output_stride("RepLKNet", output_stride, 32)
        factory = {"device": device, "dtype": dtype}
        if isinstance(kernel_sizes, int):
            kernel_sizes = (kernel_sizes,) * 4
        for option, value in (("channels", channels), ("layers", layers), ("kernel_sizes", kernel_sizes)):
            if len(value) != 4:
                raise ValueError(f"{option} needs one value for each of the four stages, not {tuple(value)}")
        self.in_chans = in_chans
        self.num_features = channels[-1]
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.norm_intermediate_features = norm_intermediate_features
        first = channels[0]
        self.stem = nn.ModuleList(
            [
                conv_bn(nn.Conv2d(in_chans, first, 3, 2, 1, bias=False, **factory), act=True),
                conv_bn(depthwise_conv(first, 3, **factory), act=True),
                conv_bn(_conv1x1(first, first, **factory), act=True),
                _halve(first, **factory),
            ]
        )
        large = partial(RepLKBlock, small_kernel=small_kernel, dw_ratio=dw_ratio, merged=small_kernel_merged, **factory)
        rates = iter(torch.linspace(0, drop_path_rate, sum(layers), device="cpu").tolist())
        self.stages = nn.ModuleList()
        self.transitions = nn.ModuleList()
        self.feature_info = []
        for stage, (width, depth, kernel_size) in enumerate(zip(channels, layers, kernel_sizes)):
            blocks = []
            for rate in (next(rates) for _ in range(depth)):
                blocks.append(large(width, kernel_size, drop_path=rate))
                blocks.append(ConvFFN(width, ffn_ratio, rate, **factory))
            norm = nn.BatchNorm2d(width, **factory) if norm_intermediate_features else nn.Identity()
            self.stages.append(RepLKNetStage(blocks, norm))
            if stage < 3:
                widen = conv_bn(_conv1x1(width, channels[stage + 1], **factory), act=True)
                self.transitions.append(nn.Sequential(widen, _halve(channels[stage + 1], **factory)))
            self.feature_info.append({"num_chs": width, "reduction": 4 * 2**stage, "module": f"stages.{stage}"})
        self.transitions.append(nn.Identity())  # as many as stages
        self.norm = nn.BatchNorm2d(channels[-1], **factory)
        self._reset_head(num_classes, global_pool)

    def _reset_head(self, num_classes: int, global_pool: str) -> None:
        self.global_pool, self.head = new_head(self, global_pool, num_classes, flatten=True)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside the 1-D ones: none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Timm's layer groups, from input to output.

        Coarse, a transition belongs to the stage before it, as in the authors' layer-wise decay (optim_factory.py).
        """
        if coarse:
            return {"stem": r"^stem", "blocks": r"^(?:stages|transitions)\.(\d+)"}
        blocks = [
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (99998,)),
            (r"^transitions\.(\d+)", (99999,)),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of stem layers and blocks in the backward pass."""
        self.grad_checkpointing = enable
        for stage in self.stages:
            stage.blocks.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes`` (0: none), with another pooling if given."""
        self._reset_head(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)

    def _forward_stem(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.stem):
            if index > 0 and self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpointed(layer, x)
            else:
                x = layer(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Final map and stage outputs, or only these; see timm's method of this name.

        Args:
            x: images (N, in_chans, H, W).
            indices: stages to return, by number, or the last n, or all.
            norm: apply the final batch norm to the last stage's output.
            stop_early: do not run what the returned maps do not need.
            output_fmt: only "NCHW".
            intermediates_only: return only the list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, not {output_fmt}")
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = []
        x = self._forward_stem(x)
        for index, (stage, transition) in enumerate(zip(self.stages, self.transitions)):
            if index <= last or not stop_early:
                x = stage(x)
                if index in wanted:
                    if norm and index == 3:
                        maps.append(self.norm(x))
                    else:
                        maps.append(stage(x, only_norm=True) if self.norm_intermediate_features else x)
                if index < last or not stop_early:
                    x = transition(x)
        if intermediates_only:
            return maps
        if last == len(self.stages) - 1 or not stop_early:
            x = self.norm(x)
        return x, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove stages after the last wanted one (and final norm, and classifier); see timm's method of this name."""
        wanted, last = feature_take_indices(len(self.stages), indices)
        shortened = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        self.transitions = self.transitions[:last].append(nn.Identity())
        for index, stage in enumerate(self.stages):
            if index not in wanted:
                stage.norm = nn.Identity()
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> the last stage's normalised map (N, C, ceil(H / 32), ceil(W / 32))."""
        x = self._forward_stem(x)
        for stage, transition in zip(self.stages, self.transitions):
            x = transition(stage(x))
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Normalised map -> logits, or the pooled features."""
        x = self.global_pool(x)
        if self.drop_rate > 0:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def _cfg(url: str = "", **changes) -> dict:
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stem.0.conv",
        "classifier": "head",
        "license": "mit",
        "origin_url": "https://github.com/DingXiaoH/RepLKNet-pytorch",
        "paper_name": "Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs",
        "paper_ids": "arXiv:2203.06717",
        **changes,
    }


default_cfgs = generate_default_cfgs(
    {
        **{
            f"{model}.{name}": _cfg(**registry.timm_cfg(weights))
            for model, published in registry.PUBLISHED.items()
            if model in SIZES
            for name, weights in published.items()
        },
        "test_replknet.untrained": _cfg(input_size=(3, 160, 160), pool_size=(5, 5)),
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict) -> RepLKNet:
    return build(RepLKNet, variant, SIZES[variant], (0, 1, 2, 3), pretrained, kwargs)


@register_model
def replknet_31b(pretrained: bool = False, **kwargs) -> RepLKNet:
    """RepLKNet-31B, 79.9 M parameters (79.5 M merged)."""
    return _create("replknet_31b", pretrained, kwargs)


@register_model
def replknet_31l(pretrained: bool = False, **kwargs) -> RepLKNet:
    """RepLKNet-31L, 172.7 M parameters (172.2 M merged)."""
    return _create("replknet_31l", pretrained, kwargs)


@register_model
def replknet_xl(pretrained: bool = False, **kwargs) -> RepLKNet:
    """RepLKNet-XL, 335.4 M parameters, for 320 pixels and inputs in -1..1."""
    return _create("replknet_xl", pretrained, kwargs)


@register_model
def test_replknet(pretrained: bool = False, **kwargs) -> RepLKNet:  # noqa: PT028 (a model, not a test)
    """A tiny RepLKNet for tests and demonstrations on a CPU."""
    return _create("test_replknet", pretrained, kwargs)
