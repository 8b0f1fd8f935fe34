"""Images of what a model predicts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np

from lk_downstream.callbacks.plots import Plots
from lk_downstream.inference.arrays import array, shown
from lk_downstream.reports.masks import segmentation_grid


class PredictionGrid(Plots):
    """A grid of predictions all over the split, drawn at each validation to ``predictions.png`` in the run's folder.

    A subclass says what it keeps of a batch and how it draws.

    Args:
        number: How many images.
    """

    def __init__(self, number: int = 6):
        self.number = number
        self.samples: list[Any] = []

    def collect(self, batch: dict[str, Any], outputs: dict[str, Any]) -> Iterable[Any]:
        """What is to be drawn of each image of a batch, on the CPU."""
        raise NotImplementedError

    def draw(self, samples: list[Any], trainer: L.Trainer, task: L.LightningModule) -> np.ndarray:
        """The grid, uint8 (height, width, 3)."""
        raise NotImplementedError

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget the last validation's."""
        self.samples = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep images at even distances: neighbours in a data set are often alike."""
        room = self.number - len(self.samples)
        distance = max(1, trainer.num_val_batches[dataloader_idx] // self.number)
        if room > 0 and batch_idx % distance == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            self.samples += itertools.islice(self.collect(batch, outputs), room)

    def plots(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """The grid."""
        samples, self.samples = self.samples, []
        if samples:
            yield "predictions", self.draw(samples, trainer, task)


class SegmentationGrid(PredictionGrid):
    """Image, truth and prediction, see :class:`PredictionGrid`."""

    def collect(self, batch: dict[str, Any], outputs: dict[str, Any]) -> Iterable[tuple[Any, ...]]:
        """Name, image, truth and prediction."""
        for name, image, *masks in zip(batch["name"], batch["image"], batch["mask"], outputs["prediction"]):
            yield (name, shown(image), *(array(mask) for mask in masks))

    def draw(self, samples: list[Any], trainer: L.Trainer, task: L.LightningModule) -> np.ndarray:
        """See :func:`segmentation_grid`."""
        return segmentation_grid(samples, trainer.datamodule.palette, task.classes)
