"""Classification: a network with its linear layer, mixed images and soft labels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.optim import AdamW

from lk_downstream.backbones import Classifier
from lk_downstream.callbacks import ClassificationFiles, ClassificationPerImage, ClassificationPlots, ConfusionMatrix
from lk_downstream.errors import InputError
from lk_downstream.metrics import ClassificationMetric, confused_pairs
from lk_downstream.metrics.classification import MEANS
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks.base import OptimizerFactory, ScheduleFactory, Task, saved_classes
from lk_downstream.tasks.classification_mixing import PairwiseMixup


class Classification(Task):
    """ImageNet classification and its like, by the recipes of the papers.

    Random erasing, mixup and cutmix are timm's, on whole normalised batches on the device.

    Args:
        backbone: The classifier.
        classes: Names of the classes; taken from the data when started from the command line.
        mixup: Parameter of the distribution by which images are blended; 0: none.
        cutmix: Parameter of the distribution of the area that another image replaces; 0: none. With mixup, each has
            half of the batches.
        smoothing: Share of a label that is spread over all classes.
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

    multilabel = False  # whether batches have ``labels``, a vector of 0 and 1 for each image
    monitor = "val/top1"
    kind = "classification"
    own_callbacks = (ClassificationPlots, ConfusionMatrix, ClassificationPerImage, ClassificationFiles)

    def __init__(
        self,
        backbone: Classifier,
        classes: tuple[str, ...] = (),
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
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
            backbone, classes, optimizer, schedule, groups, weights, sync_batchnorm, channels_last, compile
        )
        if backbone.num_classes != len(self.classes):
            raise InputError(
                f"{backbone.name} has {backbone.num_classes} outputs, but there are {len(self.classes)} classes: set "
                f"model.backbone.num_classes to {len(self.classes)}, or leave it out"
            )
        for name, value in (("mixup", mixup), ("cutmix", cutmix), ("smoothing", smoothing), ("erasing", erasing)):
            if value < 0 or (value > 1 and name in ("smoothing", "erasing")):
                raise InputError(f"model.{name} is {value}: it must be at least 0" + " and at most 1" * (value > 1))
        self.smoothing, self.erasing = smoothing, erasing
        self.mix = None
        if mixup or cutmix:
            self.mix = PairwiseMixup(mixup, cutmix, label_smoothing=smoothing, num_classes=len(self.classes))
        self.metric = ClassificationMetric(self.classes)
        self.metrics = self.metric.metrics
        self.confusion: Tensor | None = None

    def setup(self, stage: str) -> None:
        """As :meth:`Task.setup`; nothing is evaluated by a last layer that no weights have filled."""
        if stage != "fit" and self.backbone.missing and not self.weights and not self.trainer.ckpt_path:
            raise InputError(
                f"the weights of model.backbone lack {self.backbone.missing[0]} for {len(self.classes)} classes, "
                "without which the model cannot be evaluated: give weights for these classes, or train first"
            )
        if getattr(self.trainer.datamodule, "multilabel", self.multilabel) != self.multilabel:
            one, several = "Classification", "MultiLabelClassification"
            raise InputError(
                f"the data have several labels an image: set model to {several}"
                if not self.multilabel
                else f"the data have one label an image: set model to {one}, or data.dataset.separator"
            )
        super().setup(stage)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes)."""
        return self.backbone(inputs)

    def logits(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) -> logits (N, classes), float32."""
        return self(self.normalize(images)).float()

    def probabilities(self, images: Tensor) -> Tensor:
        """Images uint8 (N, 3, H, W) -> (N, classes), float32."""
        return self.logits(images).softmax(1)

    def augmented(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, H, W) and labels (N,) -> network input, and labels or their mixture (N, classes).

        Raises:
            InputError: An odd number of images is to be mixed.
        """
        inputs = self.normalize(images)
        if self.erasing:
            inputs = RandomErasing(self.erasing, mode="pixel", device=inputs.device)(inputs)
        if self.mix is None:
            return inputs, labels
        if len(images) % 2:
            raise InputError(
                f"mixup and cutmix take pairs, but a device has {len(images)} images in a batch: change "
                "data.batch_size, or set model.mixup and model.cutmix to 0"
            )
        return self.mix(inputs, labels)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The cross-entropy of a batch, with smoothed or mixed labels."""
        inputs, target = self.augmented(batch["image"], batch["label"])
        smoothing = 0.0
        if target.ndim == 1:  # timm's Mixup gives shares of the classes, and smooths what it mixes
            # Of indices the cross-entropy is an NLL loss, which has no reproducible kernel for GPUs.
            target, smoothing = F.one_hot(target, len(self.classes)).float(), self.smoothing
        loss = F.cross_entropy(self(inputs).float(), target.float(), label_smoothing=smoothing)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Count the images."""
        logits = self.logits(batch["image"])
        self.metric.update(logits, batch["label"])
        return {"prediction": logits}

    def on_validation_epoch_end(self) -> None:
        """One reduction over all processes, and the metrics of the whole data set."""
        metrics = self.metric.compute()
        self.metric.reset()
        summary = {name: metrics[name].item() for name in self.metrics}
        # Flat and square, as torchmetrics makes a number of what has one element.
        columns = {name: metrics[name].flatten().tolist() for name in ("accuracy", "precision", "F1")}
        shown = [name for name in self.metrics if name not in MEANS]
        self.report(summary, {"class": list(self.classes), **columns}, shown)
        matrix, number = metrics["matrix"], len(self.classes)
        self.confusion = matrix.reshape(number, number) if matrix.numel() else None
        if self.results:
            bins = ("count", "confidence", "accuracy")
            self.results["calibration"] = {name: metrics[f"bin_{name}"].tolist() for name in bins}
            self.results["confused"] = [] if self.confusion is None else confused_pairs(self.confusion, self.classes)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Probabilities and class indices of the best five classes of each image, both (N, 5), best first."""
        return tuple(self.probabilities(batch["image"]).topk(min(5, len(self.classes))))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As :meth:`Task.on_load_checkpoint`; also refuse other classes, which a wrong folder may have as many of."""
        super().on_load_checkpoint(checkpoint)
        for saved, own in zip(saved_classes(checkpoint), self.classes):
            if saved != own:
                raise InputError(
                    f"--ckpt_path: the checkpoint was trained with the class {saved!r} where the data have {own!r}: "
                    "give data with the same class folders, or start a new training from it by --model.weights"
                )
