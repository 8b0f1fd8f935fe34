"""Heads that predict from anchors on every level: the region proposal network and RetinaNet's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.detectors.anchors import AnchorGenerator
from lk_downstream.detectors.batch import Detections, Sizes, Targets
from lk_downstream.detectors.blocks import conv_block, flatten_maps, init_normal
from lk_downstream.detectors.boxes import DeltaCoder, clip, numbers
from lk_downstream.detectors.losses import focal_loss, l1_loss, one_hot
from lk_downstream.detectors.matching import NEGATIVE, IoUAssigner, RandomSampler
from lk_downstream.detectors.selection import Selection
from lk_downstream.errors import InputError


@dataclass(frozen=True)
class AnchorSettings:
    """What the heads with anchors share.

    Attributes:
        scales: sides of the anchors, in strides.
        ratios: height over width of the anchors.
        assigner: which anchors learn which object.
        allowed_border: pixels by which an anchor may cross the image's edge to be a sample; -1: any.
        pad_divisor: anchors beyond the image, padded alone to multiples of this, are no samples.
        beta: below this, smooth L1 is quadratic; 0: plain L1.
    """

    scales: tuple[float, ...]
    ratios: tuple[float, ...]
    assigner: IoUAssigner
    allowed_border: int = -1
    pad_divisor: int = 32
    beta: float = 0.0

    def __post_init__(self):
        if not self.scales or not self.ratios:
            raise InputError("scales and ratios of the anchors must have at least one value each")


@dataclass(frozen=True)
class RPNSettings(AnchorSettings):
    """Settings of the region proposal network; the defaults are Mask R-CNN's.

    Attributes:
        sampler: anchors of an image that the loss is computed on.
        train: selection of the proposals in training.
        test: selection of the proposals in evaluation.
    """

    scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    assigner: IoUAssigner = field(default_factory=lambda: IoUAssigner(0.7, 0.3, minimum_iou=0.3))
    sampler: RandomSampler = field(default_factory=lambda: RandomSampler(256, 0.5))
    train: Selection = field(default_factory=lambda: Selection(1000, 0.7, 0.0, per_level=2000))
    test: Selection = field(default_factory=lambda: Selection(1000, 0.7, 0.0, per_level=1000))


@dataclass(frozen=True)
class RetinaSettings(AnchorSettings):
    """Settings of RetinaNet's head (Lin et al. 2017).

    Attributes:
        convs: hidden convolutions of each of the two branches.
        channels: their channels.
        test: selection of the detections.
    """

    scales: tuple[float, ...] = tuple(4 * 2 ** (i / 3) for i in range(3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    assigner: IoUAssigner = field(default_factory=lambda: IoUAssigner(0.5, 0.4))
    convs: int = 4
    channels: int = 256
    test: Selection = field(default_factory=Selection)


class AnchorOutputs(NamedTuple):
    """What a head predicts, level by level, in float32: B = H * W * A anchors of a level."""

    logits: list[Tensor]  # (N, B, classes)
    deltas: list[Tensor]  # (N, B, 4)
    anchors: list[Tensor]  # (B, 4)
    shapes: list[tuple[int, int]]  # (H, W)


class AnchorHead(nn.Module):
    """The loss and the selection of a head with anchors (mmdet's ``AnchorHead``).

    A subclass makes the layers and gives `outputs`, `classification_loss` and the names of the losses.

    Args:
        strides: of the levels.
        num_classes: foreground classes; each has a sigmoid of its own.
        settings: see `AnchorSettings`.
    """

    loss_names = ("loss_cls", "loss_bbox")
    sampler: RandomSampler | None = None

    def __init__(self, strides: Sequence[int], num_classes: int, settings: AnchorSettings):
        super().__init__()
        self.anchors = AnchorGenerator(strides, settings.scales, settings.ratios)
        self.coder = DeltaCoder()
        self.num_classes = num_classes
        self.settings = settings

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, A * classes, H, W) and deltas (N, A * 4, H, W) of one level (N, C, H, W)."""
        raise NotImplementedError

    @staticmethod
    def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
        """Summed loss of logits (K, C) for targets (K, C) of 0 and 1."""
        raise NotImplementedError

    def forward(self, maps: Sequence[Tensor]) -> AnchorOutputs:
        """Outputs of all levels (N, C, H, W), with their anchors."""
        logits, deltas = zip(*(self.outputs(x) for x in maps))
        shapes = [tuple(x.shape[-2:]) for x in maps]
        anchors = self.anchors(shapes, maps[0].device)
        return AnchorOutputs(flatten_maps(logits, self.num_classes), flatten_maps(deltas, 4), anchors, shapes)

    def samples(self, anchors: Tensor, allowed: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positive anchors (P,), negative anchors (M,) and the objects (P,) of the positive ones, as indices."""
        allowed = allowed.nonzero().squeeze(1)
        matched = self.settings.assigner(anchors[allowed], objects)
        if self.sampler is None:
            positive, negative = (matched >= 0).nonzero().squeeze(1), (matched == NEGATIVE).nonzero().squeeze(1)
        else:
            positive, negative = self.sampler(matched)
        return allowed[positive], allowed[negative], matched[positive]

    def loss(self, outputs: AnchorOutputs, sizes: Sizes, targets: Targets) -> dict[str, Tensor]:
        """Losses of the batch."""
        logits, deltas = torch.cat(outputs.logits, dim=1), torch.cat(outputs.deltas, dim=1)
        anchors = torch.cat(outputs.anchors)
        border = self.settings.allowed_border
        cls_loss, box_loss, count = 0, 0, 0
        for i, ((height, width), target) in enumerate(zip(sizes, targets)):
            allowed = self.anchors.within(outputs.shapes, (height, width), self.settings.pad_divisor, anchors.device)
            if border >= 0:
                limit = numbers((width + border, height + border), anchors)
                allowed &= ((anchors[:, :2] >= -border) & (anchors[:, 2:] < limit)).all(1)
            positive, negative, objects = self.samples(anchors, allowed, target["boxes"])
            labels = torch.cat((target["labels"][objects], negative.new_full(negative.shape, self.num_classes)))
            sampled = logits[i, torch.cat((positive, negative))]
            cls_loss = cls_loss + self.classification_loss(sampled, one_hot(labels, self.num_classes))
            encoded = self.coder.encode(anchors[positive], target["boxes"][objects])
            box_loss = box_loss + l1_loss(deltas[i, positive], encoded, self.settings.beta)
            # mmdet's count: drawn samples of both kinds, or only the positive ones, but at least one of an image
            count += max(len(positive), 1) + (max(len(negative), 1) if self.sampler else 0)
        return dict(zip(self.loss_names, (cls_loss / count, box_loss / count)))

    @torch.no_grad()
    def predict(
        self, outputs: AnchorOutputs, sizes: Sizes, selection: Selection, group_by_level: bool = False
    ) -> Detections:
        """Detections; suppressed within each level (for proposals) instead of within each class on demand."""
        results = []
        for i, size in enumerate(sizes):
            levels = []
            for level, (logits, deltas, anchors) in enumerate(zip(outputs.logits, outputs.deltas, outputs.anchors)):
                scores = logits[i].sigmoid()
                points, labels = selection.candidates(scores)
                boxes = self.coder.decode(anchors[points], deltas[i, points])
                levels.append((boxes, scores[points, labels], labels, torch.full_like(labels, level)))
            boxes, scores, labels, groups = (torch.cat(parts) for parts in zip(*levels))
            boxes = clip(boxes, size)
            results.append(selection.finish(boxes, scores, labels, groups if group_by_level else None))
        return results


class RPNHead(AnchorHead):
    """Region proposal network (Ren et al. 2015), with mmdet's parameter names.

    Args:
        channels: of the levels, and of the hidden convolution.
        strides: of the levels.
        settings: see `RPNSettings`.
    """

    loss_names = ("loss_rpn_cls", "loss_rpn_bbox")

    def __init__(self, channels: int, strides: Sequence[int], settings: RPNSettings):
        super().__init__(strides, 1, settings)
        self.sampler = settings.sampler
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, self.anchors.per_cell, 1)
        self.rpn_reg = nn.Conv2d(channels, self.anchors.per_cell * 4, 1)
        init_normal(self, 0.01)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, A, H, W) and deltas (N, A * 4, H, W) of one level."""
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)

    @staticmethod
    def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, summed."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")

    def propose(
        self, maps: Sequence[Tensor], sizes: Sizes, targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (P, 4) of each image, without gradient, and the losses (none without targets)."""
        outputs = self(maps)
        if targets is None:
            selection, losses = self.settings.test, {}
        else:
            targets = [{**target, "labels": torch.zeros_like(target["labels"])} for target in targets]
            selection, losses = self.settings.train, self.loss(outputs, sizes, targets)
        return [p["boxes"] for p in self.predict(outputs, sizes, selection, group_by_level=True)], losses


class RetinaHead(AnchorHead):
    """RetinaNet's head (Lin et al. 2017), with mmdet's parameter names.

    Args:
        channels: of the levels.
        strides: of the levels.
        num_classes: foreground classes.
        settings: see `RetinaSettings`.
    """

    def __init__(self, channels: int, strides: Sequence[int], num_classes: int, settings: RetinaSettings):
        super().__init__(strides, num_classes, settings)
        width = [channels] + [settings.channels] * settings.convs
        self.cls_convs = nn.Sequential(*(conv_block(a, b) for a, b in zip(width, width[1:])))
        self.reg_convs = nn.Sequential(*(conv_block(a, b) for a, b in zip(width, width[1:])))
        self.retina_cls = nn.Conv2d(width[-1], self.anchors.per_cell * num_classes, 3, padding=1)
        self.retina_reg = nn.Conv2d(width[-1], self.anchors.per_cell * 4, 3, padding=1)
        init_normal(self, 0.01)
        init_normal(self.retina_cls, 0.01, prior=0.01)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, A * classes, H, W) and deltas (N, A * 4, H, W) of one level."""
        return self.retina_cls(self.cls_convs(x)), self.retina_reg(self.reg_convs(x))

    @staticmethod
    def classification_loss(logits: Tensor, targets: Tensor) -> Tensor:
        """Focal loss, summed."""
        return focal_loss(logits, targets)
