"""Pictures of what a model predicts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor


class Pictures(L.Callback):
    """A grid of predictions all over the split, drawn at each validation to ``predictions.png`` in the run's folder.

    A logger that takes pictures (TensorBoard) gets it too. A subclass says what it keeps of a batch and how it draws.

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

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw the grid."""
        folder = trainer.log_dir  # asks all processes
        if not self.samples or trainer.fast_dev_run:
            return
        picture = self.draw(self.samples, trainer, task)
        if folder:
            write_picture(Path(folder) / "predictions.png", picture)
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("val/pictures", picture, trainer.global_step, dataformats="HWC")
        self.samples = []


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
    from matplotlib.patches import Patch

    colours = colour_table(palette)
    per_row = 2 if len(samples) > 1 else 1
    rows = -(-len(samples) // per_row)
    height, width = samples[0][1].shape[-2:]
    cell = 2.2
    figure = Figure((3 * per_row * cell, rows * (cell * height / width + 0.25) + 0.9), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 3 * per_row, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (name, image, truth, prediction) in enumerate(samples):
        row, column = divmod(index, per_row)
        background = image.permute(1, 2, 0).numpy()
        for offset, (title, mask) in enumerate(((name, None), ("truth", truth), ("prediction", prediction))):
            axis = axes[row, 3 * column + offset]
            axis.imshow(background if mask is None else overlay(background, mask.numpy(), colours))
            axis.set_title(title if len(title) < 28 else f"...{title[-25:]}", fontsize=8)
    found = torch.cat([mask.flatten() for sample in samples for mask in sample[2:]]).unique().tolist()
    handles = [Patch(color=colours[index] / 255, label=classes[index]) for index in found if index < len(classes)]
    figure.legend(handles=handles[:24], loc="outside lower center", ncols=min(len(handles), 4 * per_row), fontsize=8)
    return rendered(figure)


def rendered(figure: Any) -> np.ndarray:
    """A figure of matplotlib as uint8 (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG file so that ``path`` never holds an incomplete one."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.stem + ".part" + path.suffix)
    Image.fromarray(picture).save(part)
    part.replace(path)


def colour_table(palette: list[tuple[int, int, int]]) -> np.ndarray:
    """A colour for each of the 256 values of a mask, uint8 (256, 3); black where the palette has none."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    return colours


def overlay(image: np.ndarray, mask: np.ndarray, colours: np.ndarray, opacity: float = 0.65) -> np.ndarray:
    """The picture uint8 (H, W, 3) under the colours (256, 3) of its mask uint8 (H, W); dark where that is 255."""
    blended = image * (1 - opacity) + colours[mask] * opacity
    return np.where(mask[..., None] == 255, image // 3, blended).astype(np.uint8)
