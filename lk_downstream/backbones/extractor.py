"""Multi-scale feature extraction from any timm model with maps at strides 4, 8, 16 and 32."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import timm
from timm.layers import LayerNorm2d
from timm.models import ConvNeXt
from torch import Tensor, nn

from lk_downstream.backbones.slak import SLaK
from lk_downstream.errors import InputError, near_names

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """Images (N, 3, H, W) -> list of maps (N, channels[i], H / strides[i], W / strides[i]), finest first.

    ConvNeXt and SLaK get a LayerNorm over channels on every returned map, ``norm0`` to ``norm3`` by pyramid level, as
    in the authors' segmentation and detection models. The network itself, without final norm and classifier, is
    ``body``.

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
        if isinstance(body, (ConvNeXt, SLaK)):
            for level, width in zip(levels, channels):
                self.add_module(f"norm{level}", LayerNorm2d(width, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W), normalised by ``mean`` and ``std`` -> one map per level, finest first."""
        if hasattr(self.body, "forward_intermediates"):
            maps = self.body.forward_intermediates(x, indices=self.indices, stop_early=True, intermediates_only=True)
        else:
            maps = self.body(x)
            if str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC"):
                maps = [item.permute(0, 3, 1, 2) for item in maps]
        norms = (getattr(self, f"norm{level}", None) for level in self.levels)
        return [item if norm is None else norm(item) for norm, item in zip(norms, maps)]


def create_backbone(
    name: str,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    **overrides: Any,
) -> Backbone:
    """Build a multi-scale feature extractor from a timm model.

    Without weights, the layer scale of ConvNeXt and SLaK starts at 1, as in the authors' downstream configurations.

    Args:
        name: name of the model: replknet_31b, replknet_31l, replknet_xl, slak_tiny, slak_small, slak_base,
            convnext_tiny, ..., or any other model of timm with maps at strides 4 to 32, such as resnet50.
        out_indices: pyramid levels to return: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        drop_path_rate: stochastic depth; 0 for none.
        grad_checkpointing: recompute activations in the backward pass, which saves memory and costs time.
        **overrides: further arguments of the timm model, such as kernel_size of SLaK or in_chans. In a configuration
            file they stand under dict_kwargs, beside init_args.

    Raises:
        InputError: the model is unknown, lacks a level, or does not take an argument.
    """
    levels = _checked_levels(out_indices)
    arguments = {**overrides, "drop_path_rate": drop_path_rate} if drop_path_rate else overrides
    model = _create_model(name, arguments)
    if "strict_img_size" in inspect.signature(type(model).__init__).parameters:
        # Swin and its like otherwise take images of one size only.
        arguments = {"strict_img_size": False, **arguments}
        model = _create_model(name, arguments)
    if isinstance(model, (ConvNeXt, SLaK)) and "ls_init_value" not in arguments:
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(".gamma"):
                nn.init.ones_(parameter)
    indices = _level_indices(model, name, levels)
    channels = [model.feature_info[index]["num_chs"] for index in indices]
    mean, std = (_per_channel(model.pretrained_cfg[key], arguments) for key in ("mean", "std"))
    if hasattr(model, "prune_intermediate_layers"):
        indices = model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    else:
        model = _create_model(name, {**arguments, "features_only": True, "out_indices": tuple(indices)})
    if grad_checkpointing:
        _set_grad_checkpointing(model, name)
    return Backbone(model, name, levels, indices, channels, mean, std)


def _checked_levels(out_indices: Sequence[int]) -> tuple[int, ...]:
    levels = tuple(out_indices)
    if not levels or list(levels) != sorted(set(levels)) or not set(levels) <= {0, 1, 2, 3}:
        raise InputError(
            f"out_indices must be rising pyramid levels out of 0, 1, 2, 3 (strides 4, 8, 16, 32), not {levels}."
        )
    return levels


def _create_model(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The timm model ``name``, or an error that says what is wrong with the name or the arguments."""
    if "." in name and timm.is_model(name.split(".")[0]):
        model, tag = name.split(".", 1)
        raise InputError(f"Give the model and its weights as two options: name {model!r} and weights {tag!r}.")
    if not timm.is_model(name):
        raise InputError(f"There is no model named {name!r}{near_names(name, timm.list_models())}.")
    try:
        return timm.create_model(name, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        given = ", ".join(f"{option}={value!r}" for option, value in arguments.items()) or "no arguments"
        raise InputError(f"Model {name!r} cannot be built with {given}: {error}.") from error


def _level_indices(model: nn.Module, name: str, levels: Sequence[int]) -> list[int]:
    """The model's own number of the map of each pyramid level (the deepest of those at its stride)."""
    info = getattr(model, "feature_info", ())
    by_stride = {info[index]["reduction"]: index for index in range(len(info))}
    missing = [STRIDES[level] for level in levels if STRIDES[level] not in by_stride]
    if missing:
        raise InputError(
            f"Model {name!r} has no maps at stride {', '.join(map(str, missing))} "
            f"(it has {', '.join(map(str, sorted(by_stride))) or 'none'}); take a hierarchical model."
        )
    return [by_stride[STRIDES[level]] for level in levels]


def _set_grad_checkpointing(model: nn.Module, name: str) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise InputError(f"Model {name!r} does not support grad_checkpointing; leave it off.") from error


def _per_channel(statistic: Sequence[float], arguments: dict[str, Any]) -> tuple[float, ...]:
    """The mean or std of RGB, or, for another number of input channels, the average of these for each."""
    in_chans = arguments.get("in_chans", 3)
    if in_chans == len(statistic):
        return tuple(statistic)
    return (sum(statistic) / len(statistic),) * in_chans
