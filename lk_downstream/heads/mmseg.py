"""mmsegmentation's decode heads on this package's backbones.

Beside ``integrations``, the only module that imports ``mm*``, and only when a head is made: mmcv imports OpenCV, which
needs libraries that many servers lack. What is made is mmsegmentation's own module; its losses are not used: a head
here only turns feature maps into logits.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lk_downstream.errors import InputError, near_names
from lk_downstream.heads.layers import check_level

# Plain batch norm; the task converts it when there are several processes. The child is called `bn` either way.
NORM = {"type": "BN", "requires_grad": True}


def registry() -> dict[str, type[nn.Module]]:
    """All decode heads of mmsegmentation by name.

    Raises:
        InputError: mmsegmentation cannot be imported here.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmcv without compiled operators says so at import
            import mmseg.models.decode_heads  # noqa: F401 (fills the registry)
            from mmseg.models.decode_heads.decode_head import BaseDecodeHead
            from mmseg.registry import MODELS
    except ImportError as error:
        raise InputError(f"lk_downstream.heads.DecodeHead needs mmsegmentation: {_remedy(error)}") from error
    heads = MODELS.module_dict.items()
    return {name: head for name, head in sorted(heads) if inspect.isclass(head) and issubclass(head, BaseDecodeHead)}


def _remedy(error: ImportError) -> str:
    """What is missing, and how it is had."""
    own = "UPerHead and FCNHead of lk_downstream.heads need none of it"
    text = " ".join(str(error).split())
    if ".so" in text or error.name == "cv2":  # OpenCV, or a library that it is linked with
        return (
            f"it imports OpenCV (cv2), which fails here ({text}): `pip uninstall opencv-python`, then `pip install "
            "opencv-python-headless`, which needs no display libraries (or `apt-get install libgl1 libglib2.0-0 "
            f"libxcb1`); {own}"
        )
    packages = "onedl-mmsegmentation onedl-mmcv onedl-mmengine"
    return f"{text}: `pip install {packages}`; {own}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without mmengine's two lines per initialised tensor and its advice on a loss that is not used here."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
        InputError: There is no such head, it refuses its options, it needs another head's output, or mmsegmentation
            cannot be imported.
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
    ) -> nn.Module:
        heads = registry()
        if type not in heads:
            raise InputError(f"head type {type!r} is not in mmsegmentation's registry{near_names(type, heads)}")
        head_class = heads[type]
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


def _initialize(head: nn.Module) -> None:
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
        check_level(in_channels, index)
    if isinstance(in_index, int):
        return {"in_channels": in_channels[in_index], "in_index": in_index}
    return {"in_channels": [in_channels[index] for index in indices], "in_index": indices}
