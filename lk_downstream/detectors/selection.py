"""From scored boxes to detections: thresholds, the pre-selection per level, and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision import ops

from lk_downstream.detectors.boxes import not_empty
from lk_downstream.errors import InputError


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that non-maximum suppression within each group keeps, best first.

    Groups are shifted apart, so that one call does for all, up to 10 000 boxes as in mmcv (torchvision's own limit is
    lower, and the shift can change the rounding of an overlap).
    """
    if not 0 < len(boxes) < 10_000:
        return ops.batched_nms(boxes, scores, groups, threshold)
    shift = groups.to(boxes) * (boxes.max() + 1)
    return ops.nms(boxes + shift[:, None], scores, threshold)


@dataclass(frozen=True)
class Selection:
    """How detections (or proposals) are chosen.

    Attributes:
        keep: detections kept of an image.
        nms_iou: of two detections of one class that overlap by more than this, the one with the lower score goes.
        score_threshold: scores must be above it.
        per_level: candidates that a level of a one-stage head (or RPN) sends to non-maximum suppression.
        rule: what is counted for ``per_level``: ``"pairs"`` of point and class by their score (mmdet 3.x), or
            ``"points"`` with all their classes, by their best score times the centerness (mmdet 2.11, which
            older results come from).
    """

    keep: int = 100
    nms_iou: float = 0.5
    score_threshold: float = 0.05
    per_level: int = 1000
    rule: Literal["pairs", "points"] = "pairs"

    def __post_init__(self):
        if min(self.keep, self.per_level) < 0:
            raise InputError(f"keep is {self.keep} and per_level is {self.per_level}: neither may be negative")

    def candidates(self, scores: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Points and classes, int64 (K,) each, that one level sends to non-maximum suppression.

        Args:
            scores: (P, C) of P points (or anchors) and C classes.
            factors: (P,), what the scores are multiplied with later (FCOS's centerness).
        """
        points = torch.arange(len(scores), device=scores.device)
        if self.rule == "points" and len(scores) > self.per_level:
            ranking = scores if factors is None else scores * factors[:, None]
            points = ranking.amax(1).topk(self.per_level).indices
        flat = scores[points].flatten()
        index = (flat > self.score_threshold).nonzero().squeeze(1)
        if self.rule == "pairs":
            index = index[flat[index].argsort(descending=True, stable=True)[: self.per_level]]
        classes = scores.shape[1]
        return points[index // classes], index % classes

    def finish(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, groups: Tensor | None = None, drop_empty: bool = True
    ) -> dict[str, Tensor]:
        """Suppresses and cuts the detections of one image.

        Args:
            boxes: (K, 4).
            scores: (K,).
            labels: int64 (K,).
            groups: int64 (K,), within which boxes suppress each other; the labels if not given.
            drop_empty: drop boxes of zero width or height first.

        Returns:
            ``boxes``, ``scores`` and ``labels`` of the detections kept, best first.
        """
        groups = labels if groups is None else groups
        if drop_empty:
            valid = not_empty(boxes).nonzero().squeeze(1)  # once for all four
            boxes, scores, labels, groups = boxes[valid], scores[valid], labels[valid], groups[valid]
        kept = grouped_nms(boxes, scores, groups, self.nms_iou)[: self.keep]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}
