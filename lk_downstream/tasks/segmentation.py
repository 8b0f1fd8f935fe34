"""Semantic segmentation: a backbone, a decode head and an auxiliary head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from lk_downstream.backbones import Backbone
from lk_downstream.callbacks import ConfusionMatrix, SegmentationFiles, SegmentationGrid, SegmentationPerImage
from lk_downstream.data.transforms import resize_image
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.inference import Inference, Whole
from lk_downstream.metrics import BoundaryIoU, SegmentationMetric
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks.base import OptimizerFactory, ScheduleFactory, Task
from lk_downstream.tasks.class_weights import refuse_other_weights, weigh_by_frequency
from lk_downstream.tasks.losses import PixelCrossEntropy, PixelLoss, SumOfLosses

HeadFactory = Callable[[Sequence[int], int], nn.Module]


class Segmentation(Task):
    """UPerNet and its like, by the recipe of the papers.

    Args:
        backbone: Multi-scale feature extractor.
        classes: Names of the classes; taken from the data when started from the command line.
        head: Makes the decode head from the backbone's channels and the number of classes.
        auxiliary_head: Likewise, for the auxiliary loss; None: none.
        auxiliary_weight: Weight of the auxiliary loss.
        loss: ``PixelCrossEntropy`` (the default), ``OHEM``, ``Focal``, ``Dice``, ``Lovasz``, ``SumOfLosses``, or any
            module from logits (N, C, H, W) and class indices (N, H, W) with 255 for ignored pixels to a scalar.
        inference: How an image of any size is evaluated.
        boundary_iou: Also report the boundary IoU of each class, which takes time.
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer and the number of optimizer steps of the run; None: constant.
        groups: Which parameters decay, and layer-wise learning rates.
        weights: File, URL or name of weights of the whole model to start from, in any published format.
        sync_batchnorm: Share batch statistics between GPUs, if there are several.
        channels_last: Keep maps in NHWC memory order, which is faster for depthwise convolutions. Training on
            a CPU with AVX2 alone leaves dense ones in NCHW, which is faster there.
        compile: Compile the backbone with ``torch.compile``.
    """

    metrics = ("mIoU", "mAcc", "aAcc", "mF1", "mPrecision")
    monitor = "val/mIoU"
    kind = "segmentation"
    own_callbacks = (SegmentationGrid, ConfusionMatrix, SegmentationPerImage, SegmentationFiles)

    def __init__(
        self,
        backbone: Backbone,
        classes: tuple[str, ...] = (),
        head: HeadFactory = UPerHead,
        auxiliary_head: HeadFactory | None = FCNHead,
        auxiliary_weight: float = 0.4,
        loss: PixelLoss | SumOfLosses | nn.Module | None = None,
        inference: Inference | None = None,
        boundary_iou: bool = False,
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
        self.head = head(backbone.channels, len(self.classes))
        self.auxiliary_head = auxiliary_head(backbone.channels, len(self.classes)) if auxiliary_head else None
        self.auxiliary_weight = auxiliary_weight
        self.loss = loss or PixelCrossEntropy()
        refuse_other_weights(self.loss, self.classes)
        self.inference = inference or Whole()
        self.metric = SegmentationMetric(self.classes)
        self.boundary = BoundaryIoU(self.classes) if boundary_iou else None
        if self.boundary:
            self.metrics = (*self.metrics, "mBoundaryIoU")
        self.confusion: Tensor | None = None

    def setup(self, stage: str) -> None:
        """As :meth:`Task.setup`; the classes are counted where the loss is weighted by them."""
        super().setup(stage)
        if stage == "fit":
            weigh_by_frequency(self.loss, self.trainer)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes, H, W)."""
        return self._resized(self.head, self.backbone(inputs), inputs.shape[-2:])

    def logits(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) -> logits (N, classes, H, W)."""
        return self(self.normalize(images))

    def head_logits(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) -> logits at the stride of the head, mostly (N, classes, H / 4, W / 4).

        A side shorter than the coarsest stride, of which no map would be left, is stretched to it.
        """
        images = resize_image(images, [max(side, *self.backbone.strides) for side in images.shape[-2:]])
        return self.head(self.backbone(self.normalize(images)))

    def predict(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) of any size -> class indices uint8 (N, H, W), by the inference rule."""
        return self.inference.predict(self.head_logits, images, self.head.align_corners)

    def probabilities(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) of any size -> float32 (N, classes, H, W), by the inference rule."""
        return self.inference.probabilities(self.head_logits, images, self.head.align_corners)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch of crops."""
        inputs = self.normalize(batch["image"], batch["size"])
        target = batch["mask"].long()
        features = self.backbone(inputs)
        loss = self.loss(self._resized(self.head, features, target.shape[-2:]), target)
        self.log("train/loss_decode", loss.detach())
        if self.auxiliary_head is not None:
            auxiliary = self.loss(self._resized(self.auxiliary_head, features, target.shape[-2:]), target)
            self.log("train/loss_auxiliary", auxiliary.detach())
            loss = loss + self.auxiliary_weight * auxiliary
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count the pixels of images at their own size."""
        prediction = self.predict(batch["image"])
        self.metric.update(prediction, batch["mask"])
        if self.boundary:
            self.boundary.update(prediction, batch["mask"])
        return {"prediction": prediction}

    def on_validation_epoch_end(self) -> None:
        """One reduction over all processes, and the metrics of the whole data set."""
        metrics = self.metric.compute()
        self.metric.reset()
        names = ["IoU", "Acc", "F1", "Precision"]
        if self.boundary:
            metrics |= self.boundary.compute()
            self.boundary.reset()
            names.append("BoundaryIoU")
        # Flat and square, as torchmetrics makes a number of what has one element.
        columns = {name: metrics[name].flatten().tolist() for name in names}
        self.confusion = metrics["matrix"].reshape(len(self.classes), len(self.classes))
        self.report(
            {name: metrics[name].item() for name in self.metrics},
            {"class": list(self.classes), **columns},
            shown=self.metrics[:3],
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Class indices uint8 (N, H, W)."""
        return self.predict(batch["image"])

    @staticmethod
    def _resized(head: nn.Module, features: list[Tensor], size: Sequence[int]) -> Tensor:
        return F.interpolate(head(features), tuple(size), mode="bilinear", align_corners=head.align_corners)
