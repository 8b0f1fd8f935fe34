"""What is analysed, as a command line names it: a run's folder, a checkpoint, or a model of timm's registry."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import timm
import torch

from lk_downstream import trust
from lk_downstream.backbones import Backbone, Classifier, create_backbone, create_classifier
from lk_downstream.backbones.extractor import STRIDES
from lk_downstream.backbones.factory import check_name
from lk_downstream.errors import InputError
from lk_downstream.tasks import Task, load_task


def checkpoint_of(source: str | os.PathLike) -> Path:
    """The checkpoint that a path stands for: of a run's folder that of the best step, else of the last.

    Raises:
        InputError: the folder holds none.
    """
    path = Path(source)
    if not path.is_dir():
        return path
    run = path.parent if path.name == "checkpoints" else path
    best = sorted((run / "checkpoints").glob("best_step=*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
    with suppress(OSError, ValueError, KeyError, TypeError):  # of several, the one that the report names
        step = trust.read_json(run / "metrics.json")["best"]["step"]
        best.insert(0, run / "checkpoints" / f"best_step={step}.ckpt")
    for found in (*best, run / "checkpoints" / "last.ckpt"):
        if found.is_file():
            return found
    raise InputError(f"{path} holds no checkpoints/last.ckpt: give the folder of a run, or a checkpoint")


def find_task(source: str | os.PathLike, trusted: Iterable[str] = ()) -> Task:
    """The task of a run's folder or a checkpoint, see :func:`lk_downstream.tasks.load_task`."""
    return load_task(checkpoint_of(source), trusted)


def find_model(source: str) -> Backbone | Classifier:
    """The network of a task, or a model by its name, in eval mode on the CPU.

    Args:
        source: a run's folder, a checkpoint, or the name of a model of timm's registry, such as slak_tiny; random
            weights, unless the name is followed by a colon and weights, as ``model.backbone.weights`` takes them:
            ``replknet_31b:in1k``.

    Raises:
        InputError: there is no such model, checkpoint or weights.
    """
    name, _, weights = source.partition(":")
    if not timm.is_model(name) and (Path(source).exists() or Path(source).suffix):
        return find_task(source).backbone
    check_name(name)
    with torch.device("meta"):
        strides = {info["reduction"] for info in getattr(timm.create_model(name), "feature_info", ())}
    # What keeps one stride, such as isotropic ConvNeXt, is no pyramid.
    create = create_backbone if strides >= set(STRIDES) else create_classifier
    return create(name, weights or None).eval()
