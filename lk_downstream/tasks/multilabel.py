"""Classification of images that have several labels, or none: a yes or no for each class."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from lk_downstream.backbones import Classifier
from lk_downstream.callbacks import ClassificationFiles, MultiLabelPerImage
from lk_downstream.metrics import MultiLabelMetric
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks.base import OptimizerFactory, ScheduleFactory
from lk_downstream.tasks.classification import Classification


class MultiLabelClassification(Classification):
    """Several labels an image: binary cross-entropy of each class, and mean average precision.

    Args:
        backbone: The classifier.
        classes: Names of the classes; taken from the data when started from the command line.
        smoothing: Share of each yes and no that is taken for its contrary, half of it.
        erasing: Share of the images in which a rectangle is replaced by noise.
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer and the number of optimizer steps of the run; None: constant.
        groups: Which parameters decay, and layer-wise learning rates.
        weights: File, URL or name of weights of the whole model to start from, in any published format.
        sync_batchnorm: Share batch statistics between GPUs, if there are several.
        channels_last: Keep maps in NHWC memory order, which is faster for depthwise convolutions. Training on
            a CPU with AVX2 alone leaves dense ones in NCHW, which is faster there.
        compile: Compile the network with ``torch.compile``.
    """

    multilabel = True
    monitor = "val/mAP"
    kind = "multilabel"
    own_callbacks = (MultiLabelPerImage, ClassificationFiles)

    def __init__(
        self,
        backbone: Classifier,
        classes: tuple[str, ...] = (),
        smoothing: float = 0.0,
        erasing: float = 0.25,
        optimizer: OptimizerFactory = AdamW,
        schedule: ScheduleFactory | None = None,
        groups: ParameterGroups | None = None,
        weights: str | None = None,
        sync_batchnorm: bool = True,
        channels_last: bool = True,
        compile: bool = False,
    ):
        super().__init__(
            backbone,
            classes,
            mixup=0.0,
            cutmix=0.0,
            smoothing=smoothing,
            erasing=erasing,
            optimizer=optimizer,
            schedule=schedule,
            groups=groups,
            weights=weights,
            sync_batchnorm=sync_batchnorm,
            channels_last=channels_last,
            compile=compile,
        )
        self.metric = MultiLabelMetric(self.classes)
        self.metrics = self.metric.metrics

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The binary cross-entropy of a batch, the mean over images and classes."""
        inputs, labels = self.augmented(batch["image"], batch["labels"])
        target = labels.float() * (1 - self.smoothing) + self.smoothing / 2
        loss = F.binary_cross_entropy_with_logits(self(inputs).float(), target)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Keep the scores of the images."""
        logits = self.logits(batch["image"])
        self.metric.update(logits, batch["labels"])
        return {"prediction": logits}

    def on_validation_epoch_end(self) -> None:
        """One gathering over all processes, and the metrics of the whole data set."""
        metrics = self.metric.compute()
        self.metric.reset()
        summary = {name: metrics[name].item() for name in self.metrics}
        self.report(summary, {"class": list(self.classes), "AP": metrics["AP"].flatten().tolist()})

    def probabilities(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) -> (N, classes), float32; of each class for itself."""
        return self.logits(images).sigmoid()
