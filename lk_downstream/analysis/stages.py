"""The parts of a trained task that inference runs: the backbone, the head with its neck, and the rest around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.errors import InputError
from lk_downstream.tasks import Classification, Detection, Segmentation, Task

PARTS = ("backbone", "head", "rest")


def stages(task: Task, images: Tensor) -> list[tuple[str, Callable[[Any], Any]]]:
    """The steps from images uint8 (N, 3, H, W) to predictions: the part of each, and a function of what came before.

    Raises:
        InputError: the task is of another kind.
    """
    if isinstance(task, Classification):
        body = task.backbone.body
        return [("rest", task.normalize), ("backbone", body.forward_features), ("head", body.forward_head)]
    if isinstance(task, Segmentation):
        network = [("backbone", task.backbone), ("head", task.head)]
        return [("rest", task.normalize), *network, ("rest", _classes(task, images))]
    if isinstance(task, Detection):
        detector, sizes = task.detector, [tuple(images.shape[-2:])] * len(images)
        return [
            ("rest", task.normalize),
            ("backbone", detector.backbone),
            ("head", lambda maps: detector.detections(detector.neck(maps), sizes)),
        ]
    raise InputError(f"{type(task).__name__} cannot be profiled: give a classification, a segmentation or a detection")


def _classes(task: Segmentation, images: Tensor) -> Callable[[Tensor], Tensor]:
    resize = functools.partial(F.interpolate, mode="bilinear", align_corners=task.head.align_corners)
    return lambda logits: resize(logits, images.shape[-2:]).argmax(1)


def used(task: Task) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part; those of an auxiliary head, which only a training uses, are left out."""
    if isinstance(task, Classification):
        classifier = task.backbone.body.get_classifier()
        layers = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
        head = [parameter for layer in layers for parameter in layer.parameters()]
        others = {id(parameter) for parameter in head}
        backbone = [parameter for parameter in task.backbone.parameters() if id(parameter) not in others]
    else:
        backbone = list(task.backbone.parameters())
        parts = [part for name, part in task.named_children() if name not in ("backbone", "auxiliary_head")]
        head = [parameter for part in parts for parameter in part.parameters()]
    return {"backbone": backbone, "head": head, "rest": []}
