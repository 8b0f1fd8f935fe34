"""Images of what a detector finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lk_downstream.callbacks.plots import spared
from lk_downstream.callbacks.prediction_grid import PredictionGrid
from lk_downstream.inference.arrays import array, shown
from lk_downstream.machine import shown_path
from lk_downstream.metrics import encode_masks
from lk_downstream.reports.files import write_image, write_json
from lk_downstream.reports.objects import Objects, detection_grid, draw_detections


class DetectionGrid(PredictionGrid):
    """Truth and prediction side by side, with boxes, masks, names and scores, see :class:`PredictionGrid`.

    Args:
        number: How many images.
        score: Detections of a lower score are not drawn.
        most: Only so many of the best detections of an image are drawn.
    """

    def __init__(self, number: int = 6, score: float = 0.3, most: int = 30):
        super().__init__(number)
        self.score, self.most = score, most

    def collect(
        self, batch: dict[str, Any], outputs: dict[str, Any]
    ) -> Iterable[tuple[str, np.ndarray, Objects, Objects]]:
        """Name, image at its original size, truth and prediction."""
        rows = zip(batch["name"], _originals(batch), batch["size"].tolist(), batch["target"], outputs["prediction"])
        for name, image, size, target, found in rows:
            height, width = image.shape[-2:]
            back = torch.tensor([width / size[1], height / size[0]] * 2)
            objects = ~target["iscrowd"].cpu()
            boxes = target["boxes"].as_subclass(Tensor).cpu()[objects] * back
            truth = Objects(array(boxes), array(target["labels"].cpu()[objects]))
            yield name, shown(image), truth, best(found, self.score, self.most)

    def draw(self, samples: list[Any], trainer: L.Trainer, task: L.LightningModule) -> np.ndarray:
        """See :func:`detection_grid`."""
        heading = f"prediction, scores from {self.score:g}"
        return detection_grid(samples, trainer.datamodule.palette, task.classes, heading)


class DetectionFiles(L.Callback):
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

    def __init__(self, score: float = 0.3, most: int = 100):
        self.score, self.most = score, most
        self.folder = Path()
        self.images: list[dict[str, Any]] = []
        self.results: dict[str, list[dict[str, Any]]] = {}

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the folder, which all processes agree on."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.images, self.results = [], {kind: [] for kind in task.kinds}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: list[dict[str, Tensor]],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch."""
        colours = np.asarray(trainer.datamodule.palette) / 255
        for name, image, target, found in zip(batch["name"], _originals(batch), batch["target"], outputs):
            rows = _rows(found, task.classes, trainer.datamodule.category_ids)
            write_json(self.folder / "detections" / f"{name}.json", rows)
            size = dict(zip(("height", "width"), image.shape[-2:]))
            self.images.append({"id": target["image_id"], "file_name": target["file_name"], **size})
            rows = [{"image_id": target["image_id"], **_without(row, "class")} for row in rows]
            for kind, key in (("bbox", "segmentation"), ("segm", "bbox")):
                if kind in self.results:
                    self.results[kind] += [_without(row, key) for row in rows]
            with spared(f"images/{name}.png"):
                drawn = draw_detections(shown(image), best(found, self.score, self.most), colours, task.classes)
                write_image(self.folder / "images" / f"{name}.png", drawn)

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write what all processes have found, and say where the files lie."""
        parts: list[Any] = [(self.images, self.results)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (self.images, self.results))
        images = sorted((image for part, _ in parts for image in part), key=lambda image: image["id"])
        if not trainer.is_global_zero or not images:
            return
        kinds = [{"id": number, "name": name} for number, name in zip(trainer.datamodule.category_ids, task.classes)]
        write_json(self.folder / "images.json", {"images": images, "annotations": [], "categories": kinds})
        paths = [self.folder / "detections", self.folder / "images"]
        for kind in self.results:
            rows = sorted((row for _, part in parts for row in part[kind]), key=lambda row: row["image_id"])
            paths.append(self.folder / f"results.{kind}.json")
            write_json(paths[-1], rows)
        console = Console(soft_wrap=True)
        console.print(f"{len(images)} image{'s' if len(images) > 1 else ''} predicted")
        for path, label in zip(paths, ("detections", "images", "COCO results", "of masks")):
            console.print(f"{label:<12} {shown_path(path)}")


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def best(found: dict[str, Tensor], score: float, most: int) -> Objects:
    """The detections from a score on."""
    chosen = (found["scores"] >= score).nonzero().squeeze(1)[:most]
    return Objects(**{key: array(found[key][chosen]) for key in Objects._fields if key in found})


def _originals(batch: dict[str, Any]) -> Iterable[Tensor]:
    """The images of a batch, without padding, at their original size: uint8 (3, H, W) on the CPU."""
    for image, (height, width), target in zip(batch["image"], batch["size"].tolist(), batch["target"]):
        drawn = image[None, :, :height, :width].cpu().float()
        size = tuple(target["original_size"].tolist())
        yield torch.nn.functional.interpolate(drawn, size, mode="bilinear", antialias=True)[0].round().byte()


def _rows(found: dict[str, Tensor], classes: Sequence[str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    codes = encode_masks(found["masks"]) if "masks" in found else [None] * len(found["scores"])
    rows = []
    for (x1, y1, x2, y2), label, score, code in zip(*(found[k].tolist() for k in ("boxes", "labels", "scores")), codes):
        row = {"class": classes[label], "category_id": category_ids[label], "score": score}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        rows.append(row if code is None else {**row, "segmentation": code})
    return rows
