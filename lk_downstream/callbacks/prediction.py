"""Predictions on images, written to files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from lk_downstream.inference.arrays import shown
from lk_downstream.inference.files import ClassFiles, Files, MaskFiles, ObjectFiles
from lk_downstream.inference.preparation import (
    ClassificationPreparation,
    DetectionPreparation,
    Preparation,
    SegmentationPreparation,
)


class PredictionFiles(L.Callback):
    """Writes the results of all images to the run's folder, as :mod:`lk_downstream.inference.files` has them."""

    files_class: ClassVar[type[Files]]
    preparation_class: ClassVar[type[Preparation]]
    files: Files
    preparation: Preparation

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the folder, which all processes agree on."""
        mark = f"_{trainer.global_rank}" if trainer.world_size > 1 else ""
        self.files = self.files_class(Path(trainer.log_dir or trainer.default_root_dir), mark)
        data = trainer.datamodule
        self.preparation = self.preparation_class(data.classes, data.preparation())

    def originals(self, batch: dict[str, Any]) -> Iterable[Tensor]:
        """The images of a batch at their original size, uint8 (C, H, W)."""
        return batch["image"]

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch."""
        targets = batch.get("target", [{}] * len(batch["name"]))
        rows = zip(batch["name"], self.originals(batch), targets, self.preparation.outputs(outputs))
        for name, image, target, found in rows:
            about = {"name": name, "size": tuple(image.shape[-2:]), "source": shown(image)}
            result = self.preparation.result(found, **self.preparation.known(), **about)
            self.files.add(result, **{key: target[key] for key in ("image_id", "file_name") if key in target})

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write what all processes have found, and say where the files lie."""
        kept = self.files.kept()
        parts: list[Any] = [kept]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, kept)
        if not trainer.is_global_zero:
            return
        self.files.finish(parts)
        console = Console(soft_wrap=True)
        for line in self.files.lines() if self.files.count else ():
            console.print(line, markup=False)


class SegmentationFiles(PredictionFiles):
    """Writes the predicted classes of each image, and the image under their colours, to the run's folder.

    ``labels/NAME.png`` is an image of one 8-bit channel at the size of the original. Its values are those of the data
    set's own mask files, such as 1 to 150 for ADE20K and the label ids that Cityscapes' benchmark takes; where the data
    module knows none, class indices. ``overlays/NAME.png`` is for looking at.

    Args:
        overlays: Write the overlays.
    """

    files_class, preparation_class = MaskFiles, SegmentationPreparation

    def __init__(self, overlays: bool = True):
        self.overlays = overlays

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """See :class:`PredictionFiles`."""
        super().on_predict_start(trainer, task)
        self.files.overlays = self.overlays


class DetectionFiles(PredictionFiles):
    """Writes the detections of each image, and the image with the best of them, to the run's folder.

    ``detections/NAME.json`` is a list of objects, best first, with ``class``, ``category_id`` (as in the data's
    annotations), ``score``, ``bbox`` (x, y, width, height in pixels of the original) and, of detectors with masks,
    ``segmentation`` (COCO's compressed run lengths). ``images/NAME.png`` is for looking at. ``results.bbox.json`` and
    ``results.segm.json`` hold all of them in COCO's format, as ``evaluate --results`` and test servers read it, and
    ``images.json`` the images and classes that their ids mean: those of the data's annotations, where these list them.

    Args:
        score: Detections of a lower score are not drawn.
        most: Only so many of the best detections of an image are drawn.
    """

    files_class, preparation_class = ObjectFiles, DetectionPreparation

    def __init__(self, score: float = 0.3, most: int = 100):
        self.score, self.most = score, most

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """See :class:`PredictionFiles`."""
        super().on_predict_start(trainer, task)
        self.files.score, self.files.most = self.score, self.most
        self.files.results = {kind: [] for kind in task.kinds}

    def originals(self, batch: dict[str, Any]) -> Iterable[Tensor]:
        """See :class:`PredictionFiles`; resized back, without padding, on the CPU."""
        return resized_back(batch)


class ClassificationFiles(PredictionFiles):
    """Writes the best classes of each image with their probabilities to the run's folder.

    ``predictions.json`` is a list of ``{"name", "classes", "scores"}``, best class first; ``predictions.csv`` has the
    same as a table: name, class1, score1, class2, ... With several processes each writes its own share, with its number
    in the names.

    Args:
        shown: Of how many images the best class is printed.
    """

    files_class, preparation_class = ClassFiles, ClassificationPreparation

    def __init__(self, shown: int = 10):
        self.shown = shown

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """See :class:`PredictionFiles`."""
        super().on_predict_start(trainer, task)
        self.files.shown = self.shown


def resized_back(batch: dict[str, Any]) -> Iterable[Tensor]:
    """The images of a batch of detection, without padding, at their original size: uint8 (3, H, W) on the CPU."""
    for image, (height, width), target in zip(batch["image"], batch["size"].tolist(), batch["target"]):
        drawn = image[None, :, :height, :width].cpu().float()
        size = tuple(target["original_size"].tolist())
        yield torch.nn.functional.interpolate(drawn, size, mode="bilinear", antialias=True)[0].round().byte()
