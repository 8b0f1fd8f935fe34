"""Building of a multi-scale extractor by name, with its weights."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import timm
import torch
from torch import nn

from lk_downstream.backbones import files, registry
from lk_downstream.backbones.extractor import STRIDES, Backbone, is_prenorm
from lk_downstream.backbones.weights import load_weights
from lk_downstream.errors import InputError, near_names

# What a model has downstream and not as a classifier, beside the norms that Backbone adds.
_DOWNSTREAM = {"replknet_xl": {"norm_intermediate_features": True}}


def create_backbone(
    name: str,
    weights: str | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    in_chans: int = 3,
    **overrides: Any,
) -> Backbone:
    """Build a multi-scale feature extractor from a timm model.

    Without weights, the layer scale of ConvNeXt and SLaK starts at 1, as in the authors' downstream configurations.

    Args:
        name: name of the model: replknet_31b, replknet_31l, replknet_xl, slak_tiny, slak_small, slak_base,
            convnext_tiny, ..., or any other model of timm with maps at strides 4 to 32, such as resnet50.
        weights: what to start from: a path or an address of a file in any published format, or the name of published
            weights, such as in1k or in22k_in1k_384 (for timm's own models also timm's tags, such as a1_in1k); none for
            random weights.
        out_indices: pyramid levels to return: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        drop_path_rate: stochastic depth; 0 for none.
        grad_checkpointing: recompute activations in the backward pass, which saves memory and costs time.
        in_chans: input channels. For 1 a task makes images grey. Weights for RGB are adapted as timm adapts them:
            summed for 1, repeated and scaled for others; mean and std are their average.
        **overrides: further arguments of the timm model, such as kernel_size of SLaK. In a configuration file they
            stand under dict_kwargs, beside init_args.

    Raises:
        InputError: the model or its weights are unknown, it lacks a level, or does not take an argument.
    """
    levels = _checked_levels(out_indices)
    check_name(name)
    overrides = with_channels(overrides, in_chans)
    source = weights_source(name, weights)
    arguments = {**overrides, "drop_path_rate": drop_path_rate} if drop_path_rate else overrides
    arguments = {**_DOWNSTREAM.get(name, {}), **arguments}
    model = create_model(name, arguments)
    if "strict_img_size" in inspect.signature(type(model).__init__).parameters:
        # Swin and its like otherwise take images of one size only.
        arguments = {"strict_img_size": False, **arguments}
        model = create_model(name, arguments)
    indices = _level_indices(model, name, levels)
    channels = [model.feature_info[index]["num_chs"] for index in indices]
    if isinstance(source, TimmTag):
        arguments = {**arguments, "pretrained": True, "pretrained_cfg": source}
        model = create_model(name, arguments)
    elif is_prenorm(model) and "ls_init_value" not in arguments:
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(".gamma"):
                nn.init.ones_(parameter)
    mean, std = statistics(source if isinstance(source, registry.Weights) else None, model, arguments)
    if hasattr(model, "prune_intermediate_layers"):
        indices = model.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
        if isinstance(getattr(model, "head", None), nn.Module):
            model.head = nn.Identity()  # of which timm before 1.0.31 leaves a norm without gradients
    else:
        model = create_model(name, {**arguments, "features_only": True, "out_indices": tuple(indices)})
    if grad_checkpointing:
        set_grad_checkpointing(model, name)
    backbone = Backbone(model, name, levels, indices, channels, mean, std)
    if source and not isinstance(source, TimmTag):
        load_weights(backbone, source.url if isinstance(source, registry.Weights) else source)
    return backbone


class TimmTag(str):
    """The tag of weights that timm loads itself."""


def weights_source(name: str, weights: str | None) -> registry.Weights | TimmTag | str | None:
    """What ``weights`` means for the model ``name``: published weights, timm's, a path or address, or nothing."""
    if not weights or weights in ("none", "None"):  # jsonargparse makes 'None' of a null on the command line
        return None
    weights = os.fspath(weights)
    if published := registry.find(name, weights):
        return published
    if f"{name}.{weights}" in timm.list_pretrained(f"{name}.*"):
        return TimmTag(weights)
    if files.looks_like_a_file(weights):
        return weights
    raise registry.unknown(name, weights, [tag.split(".", 1)[1] for tag in timm.list_pretrained(f"{name}.*")])


def _checked_levels(out_indices: Sequence[int]) -> tuple[int, ...]:
    levels = tuple(out_indices)
    if not levels or list(levels) != sorted(set(levels)) or not set(levels) <= {0, 1, 2, 3}:
        raise InputError(
            f"out_indices must be rising pyramid levels out of 0, 1, 2, 3 (strides 4, 8, 16, 32), not {levels}."
        )
    return levels


def check_name(name: str) -> None:
    """Refuse what is no model of timm's registry."""
    if "." in name and timm.is_model(name.split(".")[0]):
        model, tag = name.split(".", 1)
        raise InputError(f"Give the model and its weights as two options: name {model!r} and weights {tag!r}.")
    if not timm.is_model(name):
        raise InputError(f"There is no model named {name!r}{near_names(name, timm.list_models())}.")


def create_model(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The timm model ``name``, or an error that says which arguments it does not take."""
    if not 0 <= (drop := arguments.get("drop_path_rate", 0)) < 1:
        raise InputError(f"drop_path_rate is {drop}: it must be at least 0 and below 1.")
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:  # with weights, also whatever the hub's client raises
        given = ", ".join(f"{option}={value!r}" for option, value in arguments.items()) or "no arguments"
        hint = ""
        if found := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            with torch.device("meta"):  # the class of the model is all that is wanted
                kind = type(timm.create_model(name))
            hint = near_names(found[1], inspect.signature(kind.__init__).parameters)
        raise InputError(f"Model {name!r} cannot be built with {given}: {error}{hint or '.'}") from error


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


def set_grad_checkpointing(model: nn.Module, name: str) -> None:
    """Recompute activations in the backward pass, or an error for a model that cannot."""
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise InputError(f"Model {name!r} does not support grad_checkpointing; leave it off.") from error


def with_channels(overrides: dict[str, Any], in_chans: int) -> dict[str, Any]:
    """The arguments of a timm model with the number of its input channels, where that is not the usual one."""
    if in_chans < 1:
        raise InputError(f"model.backbone.in_chans is {in_chans}: it must be at least 1.")
    return overrides if in_chans == 3 else {**overrides, "in_chans": in_chans}


def statistics(
    published: registry.Weights | None, model: nn.Module, arguments: dict[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std that go with published weights, or with the model, for each of its input channels."""
    source = published or SimpleNamespace(**model.pretrained_cfg)
    return _per_channel(source.mean, arguments), _per_channel(source.std, arguments)


def _per_channel(statistic: Sequence[float], arguments: dict[str, Any]) -> tuple[float, ...]:
    """The mean or std of RGB, or, for another number of input channels, the average of these for each."""
    in_chans = arguments.get("in_chans", 3)
    if in_chans == len(statistic):
        return tuple(statistic)
    return (sum(statistic) / len(statistic),) * in_chans
