"""Metrics of each validation image, the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.callbacks.worst_images import (
    LEAST_SCORE,
    MOST_OBJECTS,
    WorstImages,
    layer_of_objects,
    sample_of,
    worst_first,
)
from lk_downstream.data.classes import default_palette
from lk_downstream.detectors.boxes import area, iou
from lk_downstream.inference.arrays import array
from lk_downstream.reports.files import write_array, write_json, write_table
from lk_downstream.reports.images import FILE as IMAGES
from lk_downstream.reports.images import Layer, Sample, encoded_mask, plain

FILE, COUNTS_FILE = "per_image.csv", "per_image.npy"
COUNTS = "counts"  # of a row, and none of its columns
Row = dict[str, Any]


class PerImage(L.Callback):
    """Writes ``per_image.csv`` to the run's folder at each validation: a row for each image of all processes.

    The images with the lowest metric in the second column come first, those that have none last. The worst of them and
    some others are kept for the run's page with truth and prediction, in ``worst_images.json``. A subclass gives rows
    and samples.
    """

    def __init__(self):
        self.rows: list[Row] = []
        self.images = WorstImages()
        self.palette: Any = []

    def measure(self, task: L.LightningModule, outputs: dict[str, Any], batch: dict[str, Any]) -> Iterable[Row]:
        """The rows of a batch: ``name``, the metric that they are sorted by, and others; the same keys in each."""
        raise NotImplementedError

    def sample(self, task: L.LightningModule, outputs: Any, batch: dict[str, Any], at: int, row: Row) -> Sample:
        """An image of a batch, whose row is known, with truth and prediction."""
        raise NotImplementedError

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Forget the last validation's."""
        self.rows = []
        self.images = WorstImages(trainer.world_size)
        self.palette = getattr(getattr(trainer, "datamodule", None), "palette", default_palette(len(task.classes)))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the images of a batch."""
        if trainer.sanity_checking:
            return
        for at, row in enumerate(self.measure(task, outputs, batch)):
            self.rows.append(row)
            metric = next(value for name, value in row.items() if name not in (COUNTS, "name"))
            self.images.offer(row["name"], metric, partial(self.sample, task, outputs, batch, at, row))

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Gather the rows once, and write them on the first process."""
        if trainer.sanity_checking:
            return
        folder = trainer.log_dir  # asks all processes
        own = (self.rows, self.images.samples())
        parts: list[Any] | None = [own]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size if trainer.is_global_zero else None
            dist.gather_object(own, parts, dst=0)
        self.rows, self.images = [], WorstImages()
        if not trainer.is_global_zero or not folder or trainer.fast_dev_run:
            return
        rows = [row for part, _ in parts for row in part]
        counts = {row["name"]: row.pop(COUNTS) for row in rows if COUNTS in row}
        if counts:
            write_array(Path(folder) / COUNTS_FILE, np.stack([counts[name] for name in sorted(counts)]))
        if rows:
            heading = list(rows[0])
            key = heading[1]
            rows.sort(key=lambda row: (math.isnan(row[key]), row[key], row["name"]))
            write_table(Path(folder) / FILE, heading, ([row[name] for name in heading] for row in rows))
            samples = worst_first([sample for _, part in parts for sample in part])
            write_json(Path(folder) / IMAGES, plain(samples, key, task.classes, self.palette, len(rows)))


class SegmentationPerImage(PerImage):
    """Mean IoU over the classes of each image, accuracy, and its worst class, see :class:`PerImage`.

    ``per_image.npy`` holds the numbers of pixels (images, 2, classes) in the intersection and the union of each class,
    of the images in the order of their names: summed, they give the mean IoU of any of the images together.
    """

    def measure(self, task: L.LightningModule, outputs: dict[str, Any], batch: dict[str, Any]) -> Iterable[Row]:
        """Of images that have labels."""
        number = len(task.classes)
        for name, prediction, mask in zip(batch["name"], outputs["prediction"], batch["mask"]):
            # Rows are all 256 values that a truth can have, as in the metric, which refuses those that are no class.
            index = mask.flatten().to(torch.int32).mul_(number).add_(prediction.flatten())
            matrix = index.bincount(minlength=256 * number).view(256, number)[:number].cpu().double()
            correct = matrix.diagonal()
            union = matrix.sum(0) + matrix.sum(1) - correct
            values = correct / union
            known = values.nan_to_num(math.inf)
            worst = int(known.argmin())
            yield {
                COUNTS: torch.stack([correct, union]).int().numpy(),
                "name": name,
                "mIoU": values.nanmean().item(),
                "aAcc": (correct.sum() / matrix.sum()).item(),
                "worst class": "" if math.isinf(known[worst]) else task.classes[worst],
                "its IoU": values[worst].item(),
                "unlabelled": 1 - matrix.sum().item() / mask.numel(),
            }

    def sample(self, task: L.LightningModule, outputs: Any, batch: dict[str, Any], at: int, row: Row) -> Sample:
        """Under the masks."""
        masks = array(batch["mask"][at]), array(outputs["prediction"][at])
        labels = np.union1d(*masks).tolist()
        layers = dict(zip(("truth", "prediction"), (Layer(encoded_mask(mask, self.palette)) for mask in masks)))
        facts = {"worst class": f"{row['worst class']} {100 * row['its IoU']:.1f}"} if row["worst class"] else {}
        labels = [label for label in labels if label < len(task.classes)]
        return sample_of(row["name"], batch["image"][at], row["mIoU"], facts, labels=labels, **layers)


class ClassificationPerImage(PerImage):
    """Probability of the true class, loss, truth and prediction of each image, see :class:`PerImage`."""

    def measure(self, task: L.LightningModule, outputs: dict[str, Any], batch: dict[str, Any]) -> Iterable[Row]:
        """None of a robustness evaluation, where images of many corruptions share a name."""
        if "part" in batch:
            return
        logits, labels = outputs["prediction"].float(), batch["label"]
        losses = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
        columns = (losses.neg().exp(), losses, labels, logits.argmax(1))
        for name, *values in zip(batch["name"], *(column.tolist() for column in columns)):
            probability, loss, label, prediction = values
            yield {
                "name": name,
                "probability": probability,
                "loss": loss,
                "truth": task.classes[label],
                "prediction": task.classes[prediction],
            }

    def sample(self, task: L.LightningModule, outputs: Any, batch: dict[str, Any], at: int, row: Row) -> Sample:
        """With truth and prediction in words."""
        labels = sorted({batch["label"][at].item(), outputs["prediction"][at].argmax().item()})
        facts = {name: row[name] for name in ("truth", "prediction")}
        return sample_of(row["name"], batch["image"][at], row["probability"], facts, labels=labels)


class MultiLabelPerImage(PerImage):
    """Probability of the right answer, loss, and classes that are missed or wrong in each image, see :class:`PerImage`.

    The loss is the binary cross-entropy, the mean over the classes, and the probability the geometric mean of those of
    each yes and no. A yes is a probability of a half or more; several classes have ``|`` between them.
    """

    def measure(self, task: L.LightningModule, outputs: dict[str, Any], batch: dict[str, Any]) -> Iterable[Row]:
        """By the logits."""
        logits, labels = outputs["prediction"].float(), batch["labels"].float()
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        truth, found = labels.bool(), logits >= 0
        kinds = (truth, truth & ~found, found & ~truth)
        for name, loss, *parts in zip(batch["name"], losses.tolist(), *(kind.cpu() for kind in kinds)):
            names = ("|".join(task.classes[at] for at in part.nonzero().flatten().tolist()) for part in parts)
            columns = dict(zip(("truth", "missed", "wrong"), names))
            yield {"name": name, "probability": math.exp(-loss), "loss": loss, **columns}

    def sample(self, task: L.LightningModule, outputs: Any, batch: dict[str, Any], at: int, row: Row) -> Sample:
        """With truth and mistakes in words."""
        either = batch["labels"][at].bool() | (outputs["prediction"][at] >= 0)
        facts = {name: row[name] for name in ("truth", "missed", "wrong") if row[name]}
        labels = either.nonzero().flatten().tolist()
        return sample_of(row["name"], batch["image"][at], row["probability"], facts, labels=labels)


class DetectionPerImage(PerImage):
    """Objects that are found and missed in each image, see :class:`PerImage`.

    Detections of a score of at least ``score`` are matched, the best first, to objects of their class that they overlap
    by an IoU of at least ``overlap``. F1 is twice the matched over objects and detections together. A detection that
    lies in a crowd region of its class is neither right nor wrong.

    Args:
        score: Least score of a detection.
        overlap: Least IoU of a match.
    """

    def __init__(self, score: float = 0.5, overlap: float = 0.5):
        super().__init__()
        self.score, self.overlap = score, overlap

    def measure(self, task: L.LightningModule, outputs: dict[str, Any], batch: dict[str, Any]) -> Iterable[Row]:
        """By the boxes."""
        for name, size, found, target in zip(batch["name"], batch["size"], outputs["prediction"], batch["target"]):
            height, width = target["original_size"].tolist()
            scale = torch.tensor([width / size[1].item(), height / size[0].item()] * 2)
            boxes = target["boxes"].as_subclass(Tensor).float().cpu() * scale  # as the detections, in original pixels
            truth = {"boxes": boxes, "labels": target["labels"].cpu(), "iscrowd": target["iscrowd"].cpu()}
            found = {key: found[key].cpu() for key in ("boxes", "scores", "labels")}
            objects, matched, wrong = self.match(found, truth)
            total = objects + matched + wrong
            yield {
                "name": name,
                "F1": 2 * matched / total if total else math.nan,
                "objects": objects,
                "matched": matched,
                "missed": objects - matched,
                "wrong": wrong,
            }

    def sample(self, task: L.LightningModule, outputs: Any, batch: dict[str, Any], at: int, row: Row) -> Sample:
        """Under boxes, and masks where there are some."""
        found, target, size = outputs["prediction"][at], batch["target"][at], batch["size"][at]
        height, width = size.tolist()
        chosen = (found["scores"] >= LEAST_SCORE).nonzero().squeeze(1)[:MOST_OBJECTS]
        parts = {key: found[key][chosen] for key in ("boxes", "labels", "scores", "masks") if key in found}
        prediction = layer_of_objects(size=target["original_size"], palette=self.palette, **parts)
        single = ~target["iscrowd"].bool()
        parts = {key: target[key].as_subclass(Tensor)[single] for key in ("boxes", "labels", "masks") if key in target}
        if "masks" in parts:
            parts["masks"] = parts["masks"][..., :height, :width]
        truth = layer_of_objects(size=size, palette=self.palette, **parts)
        labels = sorted({box.label for layer in (truth, prediction) for box in layer.boxes})
        facts = {name: str(row[name]) for name in ("objects", "missed", "wrong")}
        layers = {"labels": labels, "truth": truth, "prediction": prediction}
        return sample_of(row["name"], batch["image"][at][..., :height, :width], row["F1"], facts, **layers)

    def match(self, found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> tuple[int, int, int]:
        """How many objects an image has, how many are found, and how many detections are none of them.

        Args:
            found: ``boxes`` (K, 4), ``scores`` and ``labels`` (K,).
            truth: ``boxes`` (G, 4) in the same pixels, ``labels`` and ``iscrowd`` (G,).
        """
        order = found["scores"].argsort(descending=True, stable=True)
        order = order[found["scores"][order] >= self.score]
        boxes, labels = found["boxes"][order].float(), found["labels"][order]
        crowd = truth["iscrowd"].bool()
        same = labels[:, None] == truth["labels"]
        overlaps = iou(boxes[:, None], truth["boxes"]).where(same & ~crowd, 0.0)
        matched = wrong = 0
        for place, row in enumerate(overlaps):
            if len(row) and row.max() >= self.overlap:
                overlaps[:, row.argmax()] = 0  # each object once
                matched += 1
            else:
                wrong += not _within(boxes[place], truth["boxes"][same[place] & crowd], self.overlap)
        return int((~crowd).sum()), matched, wrong


def _within(box: Tensor, regions: Tensor, share: float) -> bool:
    """Whether so much of a box (4,) lies in one of the regions (G, 4)."""
    inner = torch.minimum(box[2:], regions[:, 2:]) - torch.maximum(box[:2], regions[:, :2])
    return bool((inner.clamp(min=0).prod(1) >= share * area(box)).any())
