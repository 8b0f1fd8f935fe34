"""What of a task, a detector or a classifier is exported; classifiers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from lk_downstream.backbones import load_weights, registry
from lk_downstream.detectors import Detector
from lk_downstream.errors import InputError, near_names
from lk_downstream.export.detection import of_detector
from lk_downstream.export.networks import Classifier, Inside, Network, Segmenter
from lk_downstream.tasks import Segmentation, Task
from lk_downstream.tasks.classification import Classification


def network(model: nn.Module, inside: Inside | None = None, preparation: Mapping[str, Any] | None = None) -> Network:
    """What is exported of a task, a detector or a classifier of timm's kind.

    Args:
        model: the model.
        inside: which steps around the network are part of it; None: all.
        preparation: how images are resized, as checkpoints keep it; None: that of the task, or the papers'.

    Raises:
        InputError: It is of another kind.
    """
    inside = inside or Inside()
    preparation = preparation or getattr(model, "preparation", None) or {}
    if isinstance(model, Segmentation):
        return Segmenter(model, inside)
    if isinstance(model, Classification):
        return Classifier(model, preparation, inside)
    if isinstance(getattr(model, "detector", model), Detector):
        return of_detector(model, preparation, inside)
    if isinstance(model, Task) or not hasattr(model, "pretrained_cfg"):
        raise InputError(
            f"{type(model).__name__} cannot be exported: give a classifier of timm's kind, a task or a detector"
        )
    return Classifier(model, preparation, inside)


def classifier(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A classifier of timm's registry in eval mode.

    Args:
        name: such as replknet_31b or slak_tiny; with timm's own weights as ``model.tag``, such as resnet50.a1_in1k.
        weights: a file or address in any published format, or a name of published weights, such as in1k; None: random.
        num_classes: of the weights, where they are not those of the model's default.

    Raises:
        InputError: the model or its weights are unknown.
    """
    if not timm.is_model(name):
        raise InputError(f"there is no model named {name!r}{near_names(name, timm.list_models())}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = timm.create_model(name, pretrained="." in name and weights is None, **options)
    if weights:
        published = registry.find(name, weights)
        if published:
            model.pretrained_cfg.update(mean=published.mean, std=published.std, license=published.license.lower())
        load_weights(model, published.url if published else weights)
    return model.eval()
