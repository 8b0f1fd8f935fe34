"""Samples of a data set with what is known of them, in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from lk_downstream.callbacks.detection_pictures import Objects, draw_objects
from lk_downstream.callbacks.figures import DPI, add_legend, plain_text, rendered, shown_name, thinned, write_picture
from lk_downstream.callbacks.pictures import colour_table, overlay, panel_shape
from lk_downstream.data.classes import default_palette
from lk_downstream.errors import InputError

COLUMNS = 4


def write_sheet(path: str | Path, dataset: Any, chosen: Sequence[int], number: int = 12) -> None:
    """Draw some samples of a data set to a PNG file.

    Args:
        path: The file.
        dataset: For segmentation, detection or classification.
        chosen: Numbers of samples, of which some at even distances are drawn.
        number: How many.

    Raises:
        InputError: None of them can be read.
    """
    samples = []
    for index in np.unique(np.linspace(0, len(chosen) - 1, min(number, len(chosen))).round().astype(int)):
        try:
            samples.append(dataset[int(chosen[index])])
        except InputError:  # which the report names
            continue
    if not samples:
        raise InputError(f"{path}: none of the samples can be read")
    palette = getattr(dataset, "palette", None) or default_palette(len(dataset.classes))
    write_picture(Path(path), sample_sheet(samples, dataset.classes, palette))


def write_batches(path: str | Path, trainer: L.Trainer, task: L.LightningModule, data: Any, number: int = 12) -> None:
    """Draw the first images of a training as the network sees them, augmented, to a PNG file.

    Args:
        path: The file.
        trainer: Of the run, which has not begun.
        task: Its task.
        data: Its data module.
        number: How many images.
    """
    data.trainer = trainer
    data.prepare_data()
    data.setup("fit")
    samples: list[dict[str, Any]] = []
    for batch in data.train_dataloader():
        if hasattr(task, "augmented"):  # mixed and erased as a batch
            inputs, shares = task.augmented(batch["image"], batch["label"] if "label" in batch else batch["labels"])
            images = (inputs.float() * task.std + task.mean).round().clamp(0, 255).byte()
            shares = torch.nn.functional.one_hot(shares, len(task.classes)) if shares.ndim == 1 else shares
            batch = {"image": images, "shares": shares.float(), "name": batch["name"]}
        samples += [_single(batch, at) for at in range(len(batch["image"]))]
        if len(samples) >= number:
            break
    write_picture(Path(path), sample_sheet(samples[:number], task.classes, data.palette))


def _single(batch: dict[str, Any], at: int) -> dict[str, Any]:
    """A sample of a batch, without its padding."""
    sample = {key: batch[key][at] for key in ("image", "mask", "target", "shares", "name") if key in batch}
    if "size" in batch:
        height, width = batch["size"][at].tolist()
        sample |= {key: sample[key][..., :height, :width] for key in ("image", "mask") if key in sample}
    return sample


def sample_sheet(
    samples: Sequence[dict[str, Any]], classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Draw samples with their masks, boxes or labels.

    Args:
        samples: Items of a data set: ``image`` uint8 (3, H, W), ``name``, and ``mask``, ``target``, ``label``,
            ``labels`` or ``shares`` of the classes.
        classes: Names of the classes.
        palette: A colour (red, green, blue) of 0 to 255 for each class.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    colours = colour_table(list(palette))
    columns = min(COLUMNS, len(samples))
    rows, cell = -(-len(samples) // columns), 3.0
    with plain_text():
        height = rows * (cell * panel_shape(sample["image"] for sample in samples) + 0.4)
        figure = Figure((columns * cell, height + 0.9 * ("mask" in samples[0])), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, sample in zip(axes.flat, samples):
            _draw(axis, sample, classes, colours)
        if "mask" in samples[0]:
            found = torch.cat([sample["mask"].flatten().unique() for sample in samples]).unique().tolist()
            found = [index for index in found if index < len(classes)][:24]
            options = {"loc": "outside lower center", "ncols": min(len(found), 2 * columns) or 1, "fontsize": 8}
            add_legend(figure, colours[found] / 255, [classes[index] for index in found], **options)
        return rendered(figure)


def _draw(axis: Any, sample: dict[str, Any], classes: Sequence[str], colours: np.ndarray) -> None:
    image, title = sample["image"].permute(1, 2, 0).numpy(), shown_name(sample["name"])
    if "target" in sample:
        target = sample["target"]
        masks = target["masks"].bool() if "masks" in target else None
        boxes = target["boxes"].as_subclass(torch.Tensor)
        draw_objects(axis, image, Objects(boxes, target["labels"], None, masks), colours / 255, classes)
    elif "mask" in sample:
        mask = sample["mask"].as_subclass(torch.Tensor).numpy()
        axis.imshow(overlay(thinned(image), thinned(mask), colours, 0.5))
    else:
        axis.imshow(thinned(image))
        if "shares" in sample:  # of smoothed labels the small ones are of no interest
            shares = {classes[number]: value for number, value in enumerate(sample["shares"].tolist()) if value > 0.05}
            names = [f"{shown_name(name)} {value:.2f}" for name, value in shares.items()]
        else:
            labels = np.flatnonzero(sample["labels"]) if "labels" in sample else [sample["label"]]
            names = [shown_name(classes[number]) for number in labels]
        title = f"{', '.join(names) or 'no label'}\n{title}"
    axis.set_title(title, fontsize=8)
