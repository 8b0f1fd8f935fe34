"""Class weights of losses against the classes of the data, and counted on them."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from lk_downstream.data.class_counts import class_pixels, median_frequency_weights
from lk_downstream.errors import InputError
from lk_downstream.tasks.losses import PixelLoss


def refuse_other_weights(loss: nn.Module, classes: Sequence[str]) -> None:
    """Refuse class weights of a loss that are not one for each class.

    Raises:
        InputError: They are not.
    """
    for part in loss.modules():
        weights = part.weights if isinstance(part, PixelLoss) else getattr(part, "weight", None)
        if isinstance(weights, Tensor) and not isinstance(weights, nn.Parameter) and len(weights) != len(classes):
            raise InputError(
                f"the loss {type(part).__name__} has {len(weights)} class weights, but there are {len(classes)} "
                "classes: give one for each, in the order of the classes, or class_weight frequency"
            )


def weigh_by_frequency(loss: nn.Module, trainer: L.Trainer) -> None:
    """Count the classes on training masks, on the first process, where a loss is weighted by their frequency."""
    waiting = [part for part in loss.modules() if isinstance(part, PixelLoss) and part.by_frequency]
    data = getattr(trainer.datamodule, "train_set", None)
    if not waiting or data is None:
        return
    pixels = class_pixels(data, len(trainer.datamodule.classes)).tolist() if trainer.is_global_zero else None
    weights = median_frequency_weights(np.array(trainer.strategy.broadcast(pixels)))
    if trainer.is_global_zero:
        names = trainer.datamodule.classes
        ends = ", ".join(f"{names[index]} {weights[index]:.3g}" for index in (weights.argmin(), weights.argmax()))
        print(f"class weights by the frequency in {len(pixels)} training masks, from {ends}")
    for part in waiting:
        part.weights = torch.from_numpy(weights).float()
