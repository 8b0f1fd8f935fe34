"""The second stage of the R-CNN family: one stage (Faster and Mask R-CNN) or several (Cascade R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lk_downstream.detectors import bbox_head, mask_head
from lk_downstream.detectors.batch import Detections, Sizes, Targets
from lk_downstream.detectors.bbox_head import BBoxHead, BBoxHeadSettings
from lk_downstream.detectors.boxes import clip
from lk_downstream.detectors.mask_head import MaskHead, MaskHeadSettings
from lk_downstream.detectors.matching import IoUAssigner, RandomSampler
from lk_downstream.detectors.roi_align import roi_features
from lk_downstream.detectors.selection import Selection
from lk_downstream.errors import InputError


@dataclass(frozen=True)
class RoISettings:
    """Settings of the second stage; the defaults are Mask R-CNN's.

    Attributes:
        ious: for each stage the IoU with an object from which on a region is a positive sample of it; one, or several
            for a cascade.
        stds: for each stage the divisors of the box deltas.
        weights: for each stage the factor of its losses.
        low_quality: whether an object without a region of enough IoU may have its best one, of the same IoU at least:
            it then prevails over an object that the region overlaps more.
        masks: whether there are mask heads.
        box: of the box heads.
        mask: of the mask heads.
        sampler: regions of an image that the losses are computed on.
        test: selection of the detections.
        levels: pyramid levels, finest first, that regions are read from.
    """

    ious: tuple[float, ...] = (0.5,)
    stds: tuple[tuple[float, float, float, float], ...] = ((0.1, 0.1, 0.2, 0.2),)
    weights: tuple[float, ...] = (1.0,)
    low_quality: bool = True
    masks: bool = True
    box: BBoxHeadSettings = field(default_factory=BBoxHeadSettings)
    mask: MaskHeadSettings = field(default_factory=MaskHeadSettings)
    sampler: RandomSampler = field(default_factory=lambda: RandomSampler(512, 0.25))
    test: Selection = field(default_factory=Selection)
    levels: int = 4


class Samples(NamedTuple):
    """Sampled regions of one image, the P positive ones first."""

    boxes: Tensor  # (R, 4)
    labels: Tensor  # (R,), num_classes for background
    objects: Tensor  # (P,), index of the object
    is_object: Tensor  # (R,) bool: the region is an object's own box


def to_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes (R_i, 4) of several images as (R, 5), with the index of the image first."""
    return torch.cat([torch.cat((torch.full_like(b[:, :1], i), b), dim=1) for i, b in enumerate(boxes)])


class RoIHead(nn.Module):
    """Box and mask heads on proposals, with mmdet's parameter names (``StandardRoIHead``, ``CascadeRoIHead``).

    With several stages (Cai and Vasconcelos 2018) each refines the boxes of the one before; in evaluation the stages'
    class logits and mask probabilities are averaged and the boxes are the last stage's.

    Args:
        channels: of the pyramid.
        strides: of its levels.
        num_classes: foreground classes.
        settings: see `RoISettings`.
    """

    def __init__(self, channels: int, strides: Sequence[int], num_classes: int, settings: RoISettings):
        super().__init__()
        self.settings, self.num_classes = settings, num_classes
        self.strides = tuple(strides[: settings.levels])
        if not len(settings.ious) == len(settings.stds) == len(settings.weights) > 0:
            raise InputError("roi.ious, roi.stds and roi.weights must have one entry for each stage")
        if not self.strides:
            raise InputError(f"roi.levels is {settings.levels}: regions need at least one level to be read from")
        heads = [BBoxHead(channels, num_classes, stds, settings.box) for stds in settings.stds]
        # mmdet numbers the heads of a cascade only
        self.bbox_head = heads[0] if len(heads) == 1 else nn.ModuleList(heads)
        self.mask_head = None
        if settings.masks:
            masks = [MaskHead(channels, num_classes, settings.mask) for _ in heads]
            self.mask_head = masks[0] if len(masks) == 1 else nn.ModuleList(masks)

    def bbox_heads(self) -> list[BBoxHead]:
        """The box heads, one for each stage."""
        return list(self.bbox_head) if isinstance(self.bbox_head, nn.ModuleList) else [self.bbox_head]

    def mask_heads(self) -> list[MaskHead]:
        """The mask heads, one for each stage; none for boxes only."""
        if self.mask_head is None:
            return []
        return list(self.mask_head) if isinstance(self.mask_head, nn.ModuleList) else [self.mask_head]

    def features(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """Features (R, C, size, size) of the boxes (R_i, 4) of each image."""
        return roi_features(maps[: self.settings.levels], self.strides, to_rois(boxes), size)

    def sample(self, iou: float, proposals: Tensor, target: dict[str, Tensor]) -> Samples:
        """Draws the regions of one image from its proposals (P, 4) and the boxes of its objects, which come first."""
        objects = target["boxes"]
        assigner = IoUAssigner(iou, iou, self.settings.low_quality, minimum_iou=iou)
        own = torch.arange(len(objects), device=objects.device)
        boxes = torch.cat((objects, proposals))
        matched = torch.cat((own, assigner(proposals, objects)))
        positive, negative = self.settings.sampler(matched)
        drawn = torch.cat((positive, negative))
        labels = torch.cat((target["labels"][matched[positive]], torch.full_like(negative, self.num_classes)))
        return Samples(boxes[drawn], labels, matched[positive], drawn < len(objects))

    def refine(
        self,
        head: BBoxHead,
        boxes: list[Tensor],
        scored: tuple[Tensor, Tensor],
        sizes: Sizes,
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """The boxes (R_i, 4) of each image moved by the deltas of their label or, for background, their best class."""
        logits, deltas = scored
        best = logits[:, :-1].argmax(1)
        best = best if labels is None else torch.where(labels == self.num_classes, best, labels)
        moved = head.decode(torch.cat(boxes), deltas, best).split([len(b) for b in boxes])
        return [clip(b, size) for b, size in zip(moved, sizes)]

    def loss(
        self, maps: Sequence[Tensor], proposals: list[Tensor], sizes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        """Losses of the batch from the pyramid (N, C, H, W) and each image's proposals (P_i, 4).

        Those of a cascade are named ``s0.loss_cls`` and so on, as in mmdet.
        """
        losses = {}
        heads, mask_heads = self.bbox_heads(), self.mask_heads()
        for i, (iou, weight, head) in enumerate(zip(self.settings.ious, self.settings.weights, heads)):
            samples = [self.sample(iou, p, t) for p, t in zip(proposals, targets)]
            boxes, labels = [s.boxes for s in samples], torch.cat([s.labels for s in samples])
            logits, deltas = head(self.features(maps, boxes, bbox_head.ROI_SIZE))
            wanted = torch.cat([t["boxes"][s.objects] for s, t in zip(samples, targets)])
            found = head.loss(logits, deltas, torch.cat(boxes), labels, wanted)
            if mask_heads:
                found["loss_mask"] = self.mask_loss(mask_heads[i], maps, samples, sizes, targets)
            prefix = f"s{i}." if len(heads) > 1 else ""
            losses |= {prefix + name: value * weight for name, value in found.items()}
            if i + 1 < len(heads):
                refined = self.refine(head, boxes, (logits.detach(), deltas.detach()), sizes, labels)
                # The objects' own boxes are added again by the next stage's sampling.
                proposals = [b[~s.is_object] for b, s in zip(refined, samples)]
        return losses

    def mask_loss(
        self, head: MaskHead, maps: Sequence[Tensor], samples: list[Samples], sizes: Sizes, targets: Targets
    ) -> Tensor:
        """Mask loss of the positive regions."""
        boxes = [s.boxes[: len(s.objects)] for s in samples]
        labels = torch.cat([s.labels[: len(s.objects)] for s in samples])
        wanted = [
            # without the padding: beyond the image's edge its last pixels count, not zeros
            head.targets(target["masks"][:, :height, :width], b, s.objects)
            for target, b, s, (height, width) in zip(targets, boxes, samples, sizes)
        ]
        return head.loss(head(self.features(maps, boxes, mask_head.ROI_SIZE), labels), torch.cat(wanted))

    @torch.no_grad()
    def predict(self, maps: Sequence[Tensor], proposals: list[Tensor], sizes: Sizes) -> Detections:
        """Detections, masks (K, 28, 28) within their boxes, from the pyramid and each image's proposals (P_i, 4)."""
        heads, total = self.bbox_heads(), 0
        for i, head in enumerate(heads):
            logits, deltas = head(self.features(maps, proposals, bbox_head.ROI_SIZE))
            total = total + logits
            if i + 1 < len(heads):
                proposals = self.refine(head, proposals, (logits, deltas), sizes)
        scores = (total / len(heads)).softmax(-1)[:, :-1]
        counts = [len(p) for p in proposals]
        parts = zip(proposals, scores.split(counts), deltas.split(counts), sizes)
        results = [self.select(heads[-1], *part) for part in parts]
        if self.mask_head is not None:
            labels = torch.cat([r["labels"] for r in results])
            features = self.features(maps, [r["boxes"] for r in results], mask_head.ROI_SIZE)
            masks = torch.stack([head(features, labels).sigmoid() for head in self.mask_heads()]).mean(0)
            for result, mask in zip(results, masks.split([len(r["labels"]) for r in results])):
                result["masks"] = mask
        return results

    def select(
        self, head: BBoxHead, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Detections of one image from its regions (R, 4), scores (R, classes) and deltas (R, classes or 1, 4)."""
        regions, labels = (scores > self.settings.test.score_threshold).nonzero(as_tuple=True)
        boxes = head.decode(proposals[regions], deltas[regions], labels)
        boxes = clip(boxes, size)
        return self.settings.test.finish(boxes, scores[regions, labels], labels, drop_empty=False)
