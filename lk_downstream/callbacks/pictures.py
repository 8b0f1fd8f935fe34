"""Pictures of what a model predicts."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lk_downstream.callbacks.figures import DPI, Figures, add_legend, plain_text, rendered, shown_name, thinned


class Pictures(Figures):
    """A grid of predictions all over the split, drawn at each validation to ``predictions.png`` in the run's folder.

    A subclass says what it keeps of a batch and how it draws.

    Args:
        number: How many pictures.
    """

    def __init__(self, number: int = 6):
        self.number = number
        self.samples: list[Any] = []

    def collect(self, batch: dict[str, Any], outputs: dict[str, Any]) -> Iterable[Any]:
        """What is to be drawn of each picture of a batch, on the CPU."""
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
        """Keep pictures at even distances: neighbours in a data set are often alike."""
        room = self.number - len(self.samples)
        distance = max(1, trainer.num_val_batches[dataloader_idx] // self.number)
        if room > 0 and batch_idx % distance == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            self.samples += itertools.islice(self.collect(batch, outputs), room)

    def figures(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """The grid."""
        samples, self.samples = self.samples, []
        if samples:
            yield "predictions", self.draw(samples, trainer, task)


class SegmentationPictures(Pictures):
    """Picture, truth and prediction, see :class:`Pictures`."""

    def collect(self, batch: dict[str, Any], outputs: dict[str, Any]) -> Iterable[tuple[str, Tensor, Tensor, Tensor]]:
        """Name, picture, truth and prediction."""
        for name, *rest in zip(batch["name"], batch["image"], batch["mask"], outputs["prediction"]):
            yield (name, *(value.cpu() for value in rest))

    def draw(self, samples: list[Any], trainer: L.Trainer, task: L.LightningModule) -> np.ndarray:
        """See :func:`segmentation_grid`."""
        return segmentation_grid(samples, trainer.datamodule.palette, task.classes)


def segmentation_grid(
    samples: list[tuple[str, Tensor, Tensor, Tensor]], palette: list[tuple[int, int, int]], classes: tuple[str, ...]
) -> np.ndarray:
    """Draw rows of picture, truth and prediction with a legend of the classes that occur.

    Args:
        samples: Name, picture uint8 (3, H, W), truth (H, W) with 255 for unlabelled pixels, prediction (H, W).
        palette: A colour (red, green, blue) of 0 to 255 for each class.
        classes: Names of the classes.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    colours = colour_table(palette)
    per_row = 2 if len(samples) > 1 else 1
    rows = -(-len(samples) // per_row)
    cell = 2.2
    with plain_text():
        size = (3 * per_row * cell, rows * (cell * panel_shape(sample[1] for sample in samples) + 0.25) + 0.9)
        figure = Figure(size, dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, 3 * per_row, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for index, (name, image, truth, prediction) in enumerate(samples):
            row, column = divmod(index, per_row)
            background = thinned(image.permute(1, 2, 0).numpy())
            panels = ((shown_name(name, 28), None), ("truth", truth), ("prediction", prediction))
            for offset, (title, mask) in enumerate(panels):
                axis = axes[row, 3 * column + offset]
                axis.imshow(background if mask is None else overlay(background, thinned(mask.numpy()), colours))
                axis.set_title(title, fontsize=8)
        found = torch.cat([mask.flatten() for sample in samples for mask in sample[2:]]).unique().tolist()
        found = [index for index in found if index < len(classes)][:24]
        if found:
            options = {"loc": "outside lower center", "ncols": min(len(found), 4 * per_row), "fontsize": 8}
            add_legend(figure, colours[found] / 255, [classes[index] for index in found], **options)
        return rendered(figure)


def panel_shape(images: Iterable[Tensor]) -> float:
    """Height of the panels for some images (3, H, W), of width 1: that of their median, but none is a mere strip."""
    return min(max(statistics.median(image.shape[1] / image.shape[2] for image in images), 0.25), 2.0)


def colour_table(palette: list[tuple[int, int, int]]) -> np.ndarray:
    """A colour for each of the 256 values of a mask, uint8 (256, 3); black where the palette has none."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    return colours


def overlay(image: np.ndarray, mask: np.ndarray, colours: np.ndarray, opacity: float = 0.65) -> np.ndarray:
    """The picture uint8 (H, W, 3) under the colours (256, 3) of its mask uint8 (H, W); dark where that is 255."""
    blended = image * (1 - opacity) + colours[mask] * opacity
    return np.where(mask[..., None] == 255, image // 3, blended).astype(np.uint8)
