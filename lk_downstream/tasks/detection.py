"""Detection and instance segmentation: a backbone and a detector, scored by COCO's protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lk_downstream.backbones import Backbone
from lk_downstream.callbacks import DetectionFiles, DetectionGrid, DetectionPerImage
from lk_downstream.detectors import Detector, to_original
from lk_downstream.detectors.batch import Detections
from lk_downstream.errors import InputError
from lk_downstream.inference import MultiScaleBoxes
from lk_downstream.metrics import CocoEvaluator
from lk_downstream.metrics.coco import METRICS
from lk_downstream.metrics.coco_truth import Backend
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks.base import OptimizerFactory, ScheduleFactory, Task


class Detection(Task):
    """Mask R-CNN and its like, by the recipes of the papers.

    The parts of the detector beside the backbone (``neck``, ``rpn_head``, ``roi_head`` or ``bbox_head``) are parts of
    the task, under the names that they have in mmdetection's files.

    Args:
        backbone: Multi-scale feature extractor.
        detector: Makes the detector from the backbone, such as ``MaskRCNN``, ``CascadeMaskRCNN`` or ``FCOS``.
        classes: Names of the classes; taken from the data when started from the command line.
        inference: Test-time scales and mirror images; None: the image as the data module gives it.
        evaluation: What scores the results.
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer and the number of optimizer steps of the run; None: constant.
        groups: Which parameters decay, and layer-wise learning rates.
        weights: File or URL of weights of the whole model to start from, in any published format.
        sync_batchnorm: Share batch statistics between GPUs, if there are several.
        channels_last: Keep maps in NHWC memory order, which is faster for depthwise convolutions. Training on
            a CPU with AVX2 alone leaves dense ones in NCHW, which is faster there.
        compile: Compile the backbone with ``torch.compile``.
    """

    monitor = "val/bbox_AP"
    kind = "detection"
    own_callbacks = (DetectionGrid, DetectionPerImage, DetectionFiles)

    # No default for `detector`: with one, the arguments of its class would be kept when another class is chosen.
    def __init__(
        self,
        backbone: Backbone,
        detector: Callable[[nn.Module], Detector],
        classes: tuple[str, ...] = (),
        inference: MultiScaleBoxes | None = None,
        evaluation: Backend = "pycocotools",
        optimizer: OptimizerFactory = AdamW,
        schedule: ScheduleFactory | None = None,
        groups: ParameterGroups | None = None,
        weights: str | None = None,
        sync_batchnorm: bool = True,
        channels_last: bool = True,
        compile: bool = False,
    ):
        super().__init__(
            backbone, classes, optimizer, schedule, groups, weights, sync_batchnorm, channels_last, compile
        )
        made = detector(backbone, num_classes=len(self.classes))
        for name, part in made.named_children():
            setattr(self, name, part)
        for level in set(range(len(backbone.strides))) - set(made.neck.used):
            for parameter in getattr(backbone, f"norm{backbone.levels[level]}", nn.Identity()).parameters():
                parameter.requires_grad = False  # of a map that the neck leaves out: it would get no gradient
        self.__dict__["detector"] = made  # past nn.Module, which would save every parameter a second time
        self.kinds = ("bbox", "segm") if made.masks else ("bbox",)
        self.metrics = tuple(f"{kind}_{name}" for kind in self.kinds for name in METRICS)
        self.inference, self.evaluation = inference, evaluation
        self.evaluator: CocoEvaluator | None = None

    def forward(self, inputs: Tensor, sizes: Tensor) -> Detections:
        """Normalised, padded images (N, 3, H, W) and their sizes (N, 2) -> detections, see :class:`Detector`."""
        return self.detector(inputs, sizes)

    def predict(self, images: Tensor, sizes: Tensor, original_sizes: list[Tensor]) -> Detections:
        """Detections in pixels of the original images, best first.

        Args:
            images: uint8 (N, 3, H, W), resized and padded.
            sizes: int64 (N, 2), height and width without the padding.
            original_sizes: N times (2,), height and width before the resize.

        Returns:
            For each image ``boxes`` float32 (K, 4) x1, y1, x2, y2, ``scores`` (K,), ``labels`` int64 (K,) and, of
            detectors with masks, ``masks`` bool (K, H, W) of the original size.
        """
        if self.inference:
            return self.inference(self._find, images, sizes, original_sizes)
        return self._find(images, sizes, original_sizes)

    def _find(self, images: Tensor, sizes: Tensor, original_sizes: Sequence[Tensor]) -> Detections:
        found = self(self.normalize(images, sizes), sizes)
        results = []
        for detection, size, original in zip(found, sizes.tolist(), original_sizes):
            height, width = original.tolist()
            results.append(to_original(detection, (height, width), (size[1] / width, size[0] / height)))
        return results

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The sum of the detector's losses."""
        losses = self.detector(self.normalize(batch["image"], batch["size"]), batch["size"], batch["target"])
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def setup(self, stage: str) -> None:
        """Forget whose objects the detections were scored by: the next run may have other data."""
        super().setup(stage)
        self.evaluator = None

    def on_validation_epoch_start(self) -> None:
        """Forget the detections of the last validation."""
        data = self.trainer.datamodule
        if not hasattr(data, "truth"):
            raise InputError("detections are scored by annotations: use DetectionData as the data module")
        if self.evaluator is None:
            self.evaluator = self._evaluator(data)
        self.evaluator.reset()

    def _evaluator(self, data: Any) -> CocoEvaluator:
        """One that knows the objects on the first process, which scores, and images and classes alone on the others."""
        options = (data.category_ids, self.kinds, self.evaluation, str(data.annotations))
        made = error = None
        if self.trainer.is_global_zero:
            try:
                made = CocoEvaluator(data.truth(), *options)
            except InputError as raised:
                error = raised
        if error := self.trainer.strategy.broadcast(error):  # else the others would wait for ever
            raise error
        return made or CocoEvaluator(getattr(data, "listing", data.truth)(), *options)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Detections]:
        """Collect the detections."""
        targets = batch["target"]
        found = self.predict(batch["image"], batch["size"], [target["original_size"] for target in targets])
        self.evaluator.update([target["image_id"] for target in targets], found)
        return {"prediction": found}

    def on_validation_epoch_end(self) -> None:
        """One exchange between all processes; the metrics, and the results in COCO's format in the run's folder."""
        metrics = {name: _or_nan(value) for name, value in self.evaluator.compute().items()}
        folder = self.trainer.log_dir  # asks all processes
        if folder and not self.trainer.sanity_checking and not self.trainer.fast_dev_run:
            self.evaluator.save(folder)
        columns: dict[str, list] = {"class": list(self.classes)}
        for kind, classes in self.evaluator.per_class.items():
            for name in ("AP", "AP50", "AP75"):
                columns[name if kind == "bbox" else f"mask {name}"] = [
                    _or_nan(classes[label][name]) for label in self.classes
                ]
        self.report(metrics, columns, shown=[name for name in metrics if name.endswith(("_AP", "_AP50"))])
        self.evaluator.reset()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Detections:
        """Detections in pixels of the original images."""
        return self.predict(batch["image"], batch["size"], [target["original_size"] for target in batch["target"]])


def _or_nan(metric: float) -> float:
    """COCO's -1, which stands for "no object of this kind", as NaN, which tables show as a dash."""
    return math.nan if metric < 0 else metric
