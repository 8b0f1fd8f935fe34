"""From ResNet to ConvNeXt, step by step: the models of Figure 2 of the ConvNeXt paper, as timm models.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, section 2 and appendix C (Table 10). Every step is the one before
with a change or two; the last is ConvNeXt. There are two regimes, ResNet-50 to ConvNeXt-T and ResNet-200 to ConvNeXt-B.
The authors published neither code nor weights of the steps between. Their multiply-adds, which these models have, leave
nothing open in the convolutions; where norms and activations stand outside of the blocks is a guess: as within them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from timm.layers import DropPath, LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from lk_downstream.backbones.blocks import Blocks
from lk_downstream.backbones.staged import StagedNetwork
from lk_downstream.backbones.timm_model import build, refuse_output_stride
from lk_downstream.ops import LargeKernelConv2d


class Step(NamedTuple):
    """A step of the ladder.

    Attributes:
        name: of the step; ``modern_resnet50_NAME`` and ``modern_resnet200_NAME`` are the models.
        changes: arguments of :class:`ModernResNet` in which it differs from the step before, in both regimes.
        macs: thousand millions of multiply-adds at 224 x 224, as published, of both.
        top1: accuracy on ImageNet-1K with ConvNeXt's recipe, as published, of both.
        small: further changes in the regime of ResNet-50.
        large: likewise of ResNet-200.
        note: why a published result is not the model's.
    """

    name: str
    changes: dict[str, Any]
    macs: tuple[float, float]
    top1: tuple[float, float]
    small: dict[str, Any] = {}
    large: dict[str, Any] = {}
    note: str = ""


STEPS = (
    Step("resnet", {}, (4.09, 15.01), (78.82, 81.14), {"depths": (3, 4, 6, 3)}, {"depths": (3, 24, 36, 3)}),
    Step(
        "stage_ratio",
        {},
        (4.53, 14.52),
        (79.36, 81.33),
        {"depths": (3, 3, 9, 3)},
        {"depths": (3, 3, 27, 3), "width": 84},  # the width is not published; this one has the multiply-adds
    ),
    Step("patchify", {"stem": "patch"}, (4.42, 14.38), (79.51, 81.59)),
    Step("depthwise", {"depthwise": True}, (2.35, 7.23), (78.28, 80.54)),
    Step("width", {}, (5.27, 16.76), (80.50, 81.85), {"width": 96}, {"width": 128}),
    Step("inverted", {"block": "inverted"}, (4.64, 15.68), (80.64, 82.64)),
    Step("depthwise_up", {"block": "depthwise_first"}, (4.07, 14.63), (79.92, 82.04)),
    Step("kernel_5", {"kernel": 5}, (4.10, 14.70), (80.35, 82.32)),
    Step("kernel_9", {"kernel": 9}, (4.21, 14.95), (80.57, 82.27)),
    Step("kernel_11", {"kernel": 11}, (4.29, 15.13), (80.47, 82.18)),
    Step("kernel_7", {"kernel": 7}, (4.15, 14.81), (80.57, 82.30)),  # which those behind it go on from
    Step("gelu", {"act": "gelu"}, (4.15, 14.81), (80.62, 82.19)),
    Step("fewer_activations", {"single_act": True}, (4.15, 14.81), (81.27, 82.71)),
    Step("fewer_norms", {"single_norm": True}, (4.15, 14.81), (81.41, 83.17)),
    # The same change costs nothing in the regime of ResNet-200, and norms are not counted.
    Step("layer_norm", {"norm": "layer"}, (4.46, 14.81), (81.47, 83.35), note="4.46 seems a misprint of 4.15"),
    Step("separate_downsampling", {"separate": True, "ls_init_value": 1e-6}, (4.49, 15.35), (81.97, 83.60)),
)


def _sizes() -> dict[str, dict[str, Any]]:
    """Arguments of all models by their names: each step's changes upon those of the steps before."""
    sizes = {}
    for start, regime in (("resnet50", "small"), ("resnet200", "large")):
        arguments: dict[str, Any] = {}
        for step in STEPS:
            arguments = {**arguments, **step.changes, **getattr(step, regime)}
            sizes[f"modern_{start}_{step.name}"] = arguments
    sizes["test_modern_resnet"] = {**arguments, "depths": (1, 1, 2, 1), "width": 24, "ls_init_value": 1.0}
    return sizes


SIZES = _sizes()
NORMS = {"batch": nn.BatchNorm2d, "layer": LayerNorm2d}
ACTS = {"relu": nn.ReLU, "gelu": nn.GELU}


class ModernBlock(nn.Module):
    """shortcut(x) + layers(x), three convolutions with what stands between them: (N, C, H, W) -> (N, C', H', W').

    Args:
        channels: C.
        out_channels: C'.
        stride: of the convolution with the large kernel.
        block: order and widths of the convolutions, see :class:`ModernResNet`.
        depthwise: of the convolution with the large kernel.
        kernel: its size.
        norm: class of the norms.
        act: class of the activations.
        single_norm: one norm, behind the convolution with the large kernel.
        single_act: one activation, between the two 1 x 1 convolutions.
        ls_init_value: initial layer scale, 0 for none.
        drop_path: stochastic depth.
        **factory: device and dtype.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        stride: int,
        block: str,
        depthwise: bool,
        kernel: int,
        norm: str,
        act: str,
        single_norm: bool,
        single_act: bool,
        ls_init_value: float,
        drop_path: float,
        **factory: Any,
    ):
        super().__init__()
        hidden = out_channels // 4 if block == "bottleneck" else 4 * out_channels
        first = block == "depthwise_first"
        large = 0 if first else 1  # which of the three has the large kernel
        widths = (channels, channels, hidden, out_channels) if first else (channels, hidden, hidden, out_channels)
        for index, (width, wider) in enumerate(zip(widths, widths[1:])):
            is_large, has_norm = index == large, index == large or not single_norm
            has_act = index == 1 if single_act else index < 2
            conv = _conv(
                width,
                wider,
                kernel if is_large else 1,
                stride if is_large else 1,
                groups=width if is_large and depthwise else 1,
                bias=norm == "layer" or not has_norm,
                **factory,
            )
            self.add_module(f"conv{index + 1}", conv)
            self.add_module(f"norm{index + 1}", _norm(norm, wider, **factory) if has_norm else nn.Identity())
            self.add_module(f"act{index + 1}", ACTS[act]() if has_act else nn.Identity())
        self.shortcut = nn.Identity()
        if stride > 1 or channels != out_channels:
            bias = norm == "layer" or single_norm
            project = _conv(channels, out_channels, 1, stride, bias=bias, **factory)
            self.shortcut = nn.Sequential(project, *([] if single_norm else [_norm(norm, out_channels, **factory)]))
        self.gamma = nn.Parameter(torch.full((out_channels,), ls_init_value, **factory)) if ls_init_value else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.act = nn.Identity() if single_act else ACTS[act]()

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        out = self.act3(self.norm3(self.conv3(out)))
        if self.gamma is not None:
            out = self.gamma[:, None, None] * out
        return self.act(self.shortcut(x) + self.drop_path(out))


class ModernResNet(StagedNetwork):
    """A network between ResNet and ConvNeXt: images (N, in_chans, H, W) -> logits (N, num_classes).

    The defaults are ResNet-50.

    Args:
        num_classes: classes; 0 for pooled features.
        in_chans: input channels.
        global_pool: timm's pooling name; "" for none: unpooled features, or logits for every place of the map.
        depths: blocks of the four stages.
        width: channels of the stem; of the stages 4, 8, 16 and 32 times as many in bottlenecks, else 1, 2, 4 and 8.
        stem: ``conv``: 7 x 7 of stride 2 and a pooling; ``patch``: 4 x 4 of stride 4.
        block: ``bottleneck``: the large kernel between two 1 x 1, in a quarter of the channels; ``inverted``: in four
            times as many; ``depthwise_first``: before the two 1 x 1, which widen and narrow as inverted ones do.
        depthwise: the convolution with the large kernel has a kernel for each channel.
        kernel: its size, odd.
        act: ``relu`` or ``gelu``.
        norm: ``batch`` or ``layer``.
        single_act: one activation a block.
        single_norm: one norm a block.
        separate: stages are downsampled by a norm and a 2 x 2 convolution of stride 2 in front of them, not within
            their first block; norms after the stem and before the classifier.
        ls_init_value: initial layer scale, 0 for none.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        output_stride: only 32: there is no dilated form.
        device: of parameters and buffers.
        dtype: likewise.

    Attributes:
        prenorm: whether maps come without norm from the sum of blocks, as ConvNeXt's.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        stem: Literal["conv", "patch"] = "conv",
        block: Literal["bottleneck", "inverted", "depthwise_first"] = "bottleneck",
        depthwise: bool = False,
        kernel: int = 3,
        act: Literal["relu", "gelu"] = "relu",
        norm: Literal["batch", "layer"] = "batch",
        single_act: bool = False,
        single_norm: bool = False,
        separate: bool = False,
        ls_init_value: float = 0.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        refuse_output_stride("ModernResNet", output_stride, 32)
        if len(depths) != 4 or kernel % 2 == 0:
            raise ValueError(f"depths needs 4 values and kernel is odd, not {tuple(depths)} and {kernel}")
        factory = {"device": device, "dtype": dtype}
        dims = [width * 2**stage * (4 if block == "bottleneck" else 1) for stage in range(4)]
        self.in_chans = in_chans
        self.num_features = dims[-1]
        self.drop_rate = drop_rate
        self.prenorm = single_norm
        self._trunc_normal = norm == "layer"
        bare = single_norm and not separate  # a stem without norm
        self.downsample_layers = nn.ModuleList([_stem(in_chans, width, stem, act, norm, single_act, bare, **factory)])
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        self.feature_info = []
        channels = width
        for stage, (dim, depth) in enumerate(zip(dims, depths)):
            if stage:
                layers = _downsampling(channels, dim, norm, **factory) if separate else nn.Identity()
                self.downsample_layers.append(layers)
                channels = dim if separate else channels
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index and not separate else 1
                blocks.append(
                    ModernBlock(
                        channels, dim, stride, block, depthwise, kernel, norm, act, single_norm, single_act,
                        ls_init_value, next(rates), **factory,
                    )
                )  # fmt: skip
                channels = dim
            self.stages.append(Blocks(*blocks))
            self.feature_info.append({"num_chs": dim, "reduction": 4 * 2**stage, "module": f"stages.{stage}"})
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6, **factory) if separate else nn.Identity()
        self._reset_head(num_classes, global_pool)
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if self._trunc_normal or isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _conv(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False, **factory: Any
) -> nn.Conv2d:
    """A convolution that is padded by half its kernel; a depthwise one of stride 1 by this package's operator."""
    kind = LargeKernelConv2d if groups > 1 and stride == 1 else nn.Conv2d
    return kind(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias, **factory)


def _norm(kind: str, channels: int, **factory: Any) -> nn.Module:
    options = {"eps": 1e-6} if kind == "layer" else {}
    return NORMS[kind](channels, **options, **factory)


def _stem(
    in_chans: int, width: int, stem: str, act: str, norm: str, single_act: bool, bare: bool, **factory: Any
) -> nn.Sequential:
    bias = bare or norm == "layer"
    if stem == "conv":
        layers: list[nn.Module] = [_conv(in_chans, width, 7, 2, bias=bias, **factory)]
    else:
        layers = [nn.Conv2d(in_chans, width, 4, 4, bias=bias, **factory)]
    layers += [] if bare else [_norm(norm, width, **factory)]
    layers += [] if single_act else [ACTS[act]()]
    layers += [nn.MaxPool2d(3, 2, 1)] if stem == "conv" else []
    return nn.Sequential(*layers)


def _downsampling(channels: int, out_channels: int, norm: str, **factory: Any) -> nn.Sequential:
    return nn.Sequential(_norm(norm, channels, **factory), nn.Conv2d(channels, out_channels, 2, 2, **factory))


# ---------------------------------------------------------------- models of timm


def _cfg(**changes: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "downsample_layers.0.0",
        "classifier": "head",
        "license": "mit",
        "paper_name": "A ConvNet for the 2020s",
        "paper_ids": "arXiv:2201.03545",
        **changes,
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in SIZES})


def _register(name: str) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> ModernResNet:
        return build(ModernResNet, name, SIZES[name], (0, 1, 2, 3), pretrained, kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The step {name} from ResNet to ConvNeXt, see :data:`STEPS`."
    setattr(sys.modules[__name__], name, register_model(create))


for _name in SIZES:
    _register(_name)
