"""Images of what a detector finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lk_downstream.callbacks.prediction import resized_back
from lk_downstream.callbacks.prediction_grid import PredictionGrid
from lk_downstream.inference.arrays import array, shown
from lk_downstream.reports.objects import Objects, detection_grid


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
        rows = zip(batch["name"], resized_back(batch), batch["size"].tolist(), batch["target"], outputs["prediction"])
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


def best(found: dict[str, Tensor], score: float, most: int) -> Objects:
    """The detections from a score on."""
    chosen = (found["scores"] >= score).nonzero().squeeze(1)[:most]
    return Objects(**{key: array(found[key][chosen]) for key in Objects._fields if key in found})
