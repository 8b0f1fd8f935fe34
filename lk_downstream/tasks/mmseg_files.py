"""Segmentation checkpoints in the format of mmsegmentation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from lk_downstream.backbones import files, formats
from lk_downstream.data.classes import (
    ADE20K_CLASSES,
    ADE20K_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    Palette,
    default_palette,
)
from lk_downstream.errors import InputError

_PALETTES = {ADE20K_CLASSES: ADE20K_PALETTE, CITYSCAPES_CLASSES: CITYSCAPES_PALETTE}
_HEADS = {"head": "decode_head", "decode_head": "decode_head", "auxiliary_head": "auxiliary_head"}


def to_mmseg(checkpoint: dict[str, Any], names: Literal["authors", "openmmlab"] = "authors") -> dict[str, Any]:
    """A checkpoint of :class:`~lk_downstream.tasks.Segmentation` as mmsegmentation writes it.

    Args:
        checkpoint: what a checkpoint file of this package (or one that is in mmsegmentation's format already) holds.
        names: of ConvNeXt's tensors: the authors' (mmsegmentation 0.x) or OpenMMLab's own (mmsegmentation 1.x with
            mmpretrain's ConvNeXt). RepLKNet and SLaK have their authors' names, other networks timm's.

    Returns:
        ``state_dict`` with the prefixes ``backbone.``, ``decode_head.`` and ``auxiliary_head.``, and ``meta`` with
        ``CLASSES`` and ``PALETTE`` (as ``dataset_meta`` too, where mmsegmentation 1.x looks for them).

    Raises:
        InputError: there is no segmentation model in it.
    """
    published = formats.convert(formats.unwrap(checkpoint))
    heads = {_HEADS[name]: part for name, part in published.parts.items() if name in _HEADS}
    if "decode_head" not in heads or not any(key.endswith("conv_seg.weight") for key in heads["decode_head"]):
        raise InputError("there is no segmentation head in the checkpoint: only a segmentation model can be converted")
    network = formats.authors_names(published.network, openmmlab=names == "openmmlab")
    state = {f"backbone.{key}": value for key, value in network.items()}
    for name, part in heads.items():
        state |= {f"{name}.{key.split('.', 1)[1]}": value for key, value in part.items()}
    classes, palette = _classes(checkpoint, state["decode_head.conv_seg.weight"].shape[0])
    meta = {"CLASSES": classes, "PALETTE": palette, "dataset_meta": {"classes": classes, "palette": palette}}
    return {"meta": meta, "state_dict": state}


def convert_to_mmseg(
    source: str | os.PathLike, target: str | os.PathLike, names: Literal["authors", "openmmlab"] = "authors"
) -> dict[str, Any]:
    """Write the checkpoint file ``source`` to ``target`` in mmsegmentation's format, and return what was written.

    Raises:
        InputError: ``source`` cannot be read, holds no segmentation model, or ``target`` exists or cannot be written.
    """
    target = Path(target)
    if target.exists():
        raise InputError(f"{target} exists already: remove it, or name another file")
    try:
        content = to_mmseg(files.read(source), names)
    except InputError as error:
        raise InputError(f"{source}: {error}" if str(source) not in str(error) else str(error)) from error
    part = target.with_name(f"{target.name}.part")
    try:
        torch.save(content, part)
        part.replace(target)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise InputError(f"cannot write {target} ({error}): name another file") from error
    return content


def _classes(checkpoint: dict[str, Any], count: int) -> tuple[tuple[str, ...], Palette]:
    """Names and colours of the classes, from the recipe or the file's own ``meta``; numbers where neither has them."""
    recipe, meta = checkpoint.get("recipe") or {}, checkpoint.get("meta") or {}
    classes = tuple(recipe.get("init_args", {}).get("classes") or meta.get("CLASSES") or map(str, range(count)))
    palette = meta.get("PALETTE") or _PALETTES.get(classes) or default_palette(count)
    return classes, [tuple(colour) for colour in palette]
