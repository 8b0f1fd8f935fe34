"""Samples of a data set as they are, and as a network sees them, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from lk_downstream.data.classes import default_palette
from lk_downstream.errors import InputError
from lk_downstream.inference.arrays import array, shown
from lk_downstream.reports.files import write_image
from lk_downstream.reports.objects import Objects
from lk_downstream.reports.samples import sample_sheet


def draw_sheet(dataset: Any, chosen: Sequence[int], number: int = 12) -> np.ndarray:
    """Draw some samples of a data set, as uint8 (height, width, 3).

    Args:
        dataset: For segmentation, detection or classification.
        chosen: Numbers of samples, of which some at even distances are drawn.
        number: How many.

    Raises:
        InputError: None of them can be read.
    """
    samples = []
    for index in np.unique(np.linspace(0, len(chosen) - 1, min(number, len(chosen))).round().astype(int)):
        try:
            samples.append(plain(dataset[int(chosen[index])]))
        except InputError:  # which the report names
            continue
    if not samples:
        raise InputError("none of the samples can be read, so that none can be drawn")
    palette = getattr(dataset, "palette", None) or default_palette(len(dataset.classes))
    return sample_sheet(samples, dataset.classes, palette)


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
        batch = data.on_after_batch_transfer(batch, 0)
        if hasattr(task, "augmented"):  # mixed and erased as a batch
            inputs, shares = task.augmented(batch["image"], batch["label"] if "label" in batch else batch["labels"])
            images = (inputs.float() * task.std + task.mean).round().clamp(0, 255).byte()
            shares = torch.nn.functional.one_hot(shares, len(task.classes)) if shares.ndim == 1 else shares
            batch = {"image": images, "shares": shares.float(), "name": batch["name"]}
        samples += [plain(_single(batch, at)) for at in range(len(batch["image"]))]
        if len(samples) >= number:
            break
    write_image(Path(path), sample_sheet(samples[:number], task.classes, data.palette))


def _single(batch: dict[str, Any], at: int) -> dict[str, Any]:
    """A sample of a batch, without its padding."""
    sample = {key: batch[key][at] for key in ("image", "mask", "target", "shares", "name") if key in batch}
    if "size" in batch:
        height, width = batch["size"][at].tolist()
        sample |= {key: sample[key][..., :height, :width] for key in ("image", "mask") if key in sample}
    return sample


def plain(sample: dict[str, Any]) -> dict[str, Any]:
    """An item of a data set, with ``mask``, ``target``, ``label``, ``labels`` or ``shares``, as it is drawn, see
    :func:`lk_downstream.reports.samples.sample_sheet`.
    """
    drawn = {"name": sample["name"], "image": shown(sample["image"])}
    if "target" in sample:
        target = sample["target"]
        masks = array(target["masks"]).astype(bool) if "masks" in target else None
        drawn["objects"] = Objects(array(target["boxes"]), array(target["labels"]), None, masks)
    elif "mask" in sample:
        drawn["mask"] = array(sample["mask"])
    elif "shares" in sample:
        drawn["shares"] = sample["shares"].tolist()
    else:
        drawn["labels"] = np.flatnonzero(sample["labels"]).tolist() if "labels" in sample else [int(sample["label"])]
    return drawn
