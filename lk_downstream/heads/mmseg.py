"""mmsegmentation's decode heads on this package's backbones.

Beside ``integrations``, the only module that imports ``mm*``. Modules, parameter names and initialisation are
mmsegmentation's own, so published checkpoints load; its losses are not used: a head here only turns feature maps into
logits.

A head is a class whose first two arguments are the backbone's channels and the number of classes, which the task gives;
all others have the published defaults of UPerNet (Xiao et al. 2018, arXiv:1807.10221) as mmsegmentation configures it.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mmcv without compiled operators says so at import
    import mmseg.models.decode_heads as mm
    from mmengine.logging import MMLogger
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.registry import MODELS

from torch import nn

from lk_downstream.errors import InputError, near_names

# Plain batch norm; the task converts it when there are several processes. The child is called `bn` either way.
NORM = {"type": "BN", "requires_grad": True}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without mmengine's two lines per initialised tensor and its advice on a loss that is not used here."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class UPerHead(mm.UPerHead):
    """UPerNet's head: pyramid pooling on the coarsest map, a feature pyramid, and a fusion of all levels.

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
        with _quiet():
            super().__init__(
                pool_scales=tuple(pool_scales),
                **_levels(in_channels, range(len(in_channels))),
                **_common(num_classes, channels, dropout, align_corners),
            )
            _initialize(self)


class FCNHead(mm.FCNHead):
    """Convolutions on one level: the auxiliary head of the published recipes.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        num_classes: Channels of the logits.
        in_index: The level that is read.
        channels: Width of the convolutions.
        num_convs: Number of 3x3 convolutions.
        concat_input: Whether the input joins the last convolution's output before one more convolution.
        dropout: Probability of dropping a channel before the last layer.
        align_corners: How logits are resized.
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
        with _quiet():
            super().__init__(
                num_convs=num_convs,
                concat_input=concat_input,
                **_levels(in_channels, in_index),
                **_common(num_classes, channels, dropout, align_corners),
            )
            _initialize(self)


class DecodeHead(nn.Module):
    """Any decode head of mmsegmentation's registry, by name; what is made is mmsegmentation's module itself.

    Args:
        in_channels: Channels of the backbone's maps, finest first.
        num_classes: Channels of the logits.
        type: Name in mmsegmentation's registry, such as ``SegformerHead``, ``PSPHead`` or ``ASPPHead``.
        in_index: Level or levels that are read; None: all of them if the head takes several, otherwise the coarsest.
        channels: Width of the head.
        dropout: Probability of dropping a channel before the last layer.
        align_corners: How maps and logits are resized.
        options: Further arguments of that head, by mmsegmentation's names.

    Raises:
        InputError: There is no such head, it refuses its options, or it needs another head's output.
    """

    def __new__(  # noqa: D102 - described by the class
        cls,
        in_channels: Sequence[int],
        num_classes: int,
        type: str,
        in_index: int | list[int] | None = None,
        channels: int = 256,
        dropout: float = 0.1,
        align_corners: bool = False,
        options: dict[str, Any] | None = None,
    ) -> BaseDecodeHead:
        if type not in head_names():
            raise InputError(f"head type {type!r} is not in mmsegmentation's registry{near_names(type, head_names())}")
        head_class = MODELS.get(type)
        if len(inspect.signature(head_class.forward).parameters) > 2:
            raise InputError(f"{type} refines another head's output and cannot be used alone; choose another head")
        settings = {**_common(num_classes, channels, dropout, align_corners), **(options or {})}
        choices = [list(range(len(in_channels))), -1] if in_index is None else [in_index]
        for choice in choices:
            try:
                with _quiet():
                    head = head_class(**_levels(in_channels, choice), **settings)
                    _initialize(head)
                    return head
            except AssertionError as error:  # mmsegmentation's way of refusing one level, or several
                refusal = error
            except (TypeError, KeyError, ValueError, RuntimeError) as error:
                raise InputError(f"{type} refuses its options {options or {}}: {error}") from error
        raise InputError(f"{type} cannot read the levels {choices[-1]}; set in_index or options: {refusal}")


def head_names() -> list[str]:
    """Names of all decode heads in mmsegmentation's registry, sorted."""
    heads = MODELS.module_dict.items()
    return sorted(name for name, cls in heads if inspect.isclass(cls) and issubclass(cls, BaseDecodeHead))


def _initialize(head: BaseDecodeHead) -> None:
    """Give a head mmsegmentation's initial weights; on the meta device (to count parameters) there are none."""
    if not next(head.parameters()).is_meta:
        head.init_weights()


def _common(num_classes: int, channels: int, dropout: float, align_corners: bool) -> dict[str, Any]:
    return {
        "num_classes": num_classes,
        "out_channels": num_classes,  # said outright, two classes would otherwise draw a warning
        "channels": channels,
        "dropout_ratio": dropout,
        "align_corners": align_corners,
        "norm_cfg": NORM,
    }


def _levels(in_channels: Sequence[int], in_index: int | Sequence[int]) -> dict[str, Any]:
    """The arguments by which mmsegmentation reads the levels ``in_index`` of maps with ``in_channels``."""
    indices = [in_index] if isinstance(in_index, int) else list(in_index)
    for index in indices:
        if not -len(in_channels) <= index < len(in_channels):
            raise InputError(f"in_index {index} of the head is out of range: there are {len(in_channels)} levels")
    if isinstance(in_index, int):
        return {"in_channels": in_channels[in_index], "in_index": in_index}
    return {"in_channels": [in_channels[index] for index in indices], "in_index": indices}
