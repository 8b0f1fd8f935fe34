"""The head of FCOS (Tian et al. 2019): boxes from points, without anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.detectors.anchors import grid_points
from lk_downstream.detectors.batch import Detections, Sizes, Targets
from lk_downstream.detectors.blocks import Scale, conv_block, flatten_maps, init_normal
from lk_downstream.detectors.boxes import area, clip, from_distances, numbers
from lk_downstream.detectors.losses import focal_loss, iou_log_loss, mean_over_ranks, one_hot
from lk_downstream.detectors.matching import in_pieces
from lk_downstream.detectors.selection import Selection
from lk_downstream.errors import InputError


@dataclass(frozen=True)
class FCOSSettings:
    """Settings of FCOS's head, as published with RepLKNet: no centre sampling, centerness beside the classes.

    Attributes:
        convs: hidden convolutions of each of the two branches.
        channels: their channels.
        bounds: between the levels: a point learns an object if the farthest of its sides is within its level's range.
        test: selection of the detections; ``rule="points"`` for mmdet 2.x.
    """

    convs: int = 4
    channels: int = 256
    bounds: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    test: Selection = field(default_factory=Selection)


class FCOSOutputs(NamedTuple):
    """What the head predicts, level by level, in float32: P = H * W points of a level."""

    logits: list[Tensor]  # (N, P, classes)
    distances: list[Tensor]  # (N, P, 4), pixels from the point to the left, top, right and bottom side
    centerness: list[Tensor]  # (N, P), logits
    points: list[Tensor]  # (P, 2)


class FCOSHead(nn.Module):
    """FCOS's head with mmdet's parameter names.

    Args:
        channels: of the levels.
        strides: of the levels; one more than ``settings.bounds``.
        num_classes: foreground classes.
        settings: see `FCOSSettings`.
    """

    def __init__(self, channels: int, strides: Sequence[int], num_classes: int, settings: FCOSSettings):
        super().__init__()
        self.strides, self.num_classes, self.settings = tuple(strides), num_classes, settings
        if len(settings.bounds) + 1 != len(self.strides):
            raise InputError(
                f"head.bounds has {len(settings.bounds)} values for {len(self.strides)} levels: give one less than "
                "neck.levels"
            )
        width = [channels] + [settings.channels] * settings.convs
        self.cls_convs = nn.Sequential(*(conv_block(a, b, "gn") for a, b in zip(width, width[1:])))
        self.reg_convs = nn.Sequential(*(conv_block(a, b, "gn") for a, b in zip(width, width[1:])))
        self.conv_cls = nn.Conv2d(width[-1], num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(width[-1], 4, 3, padding=1)
        self.conv_centerness = nn.Conv2d(width[-1], 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in self.strides)
        init_normal(self, 0.01)
        init_normal(self.conv_cls, 0.01, prior=0.01)

    def forward(self, maps: Sequence[Tensor]) -> FCOSOutputs:
        """Outputs of all levels (N, C, H, W)."""
        hidden = [self.cls_convs(x) for x in maps]
        # The exponential in float32: half precision overflows at 11.
        sides = [scale(self.conv_reg(self.reg_convs(x)).float()).exp() for x, scale in zip(maps, self.scales)]
        return FCOSOutputs(
            flatten_maps([self.conv_cls(x) for x in hidden], self.num_classes),
            flatten_maps(sides, 4),
            [x.squeeze(-1) for x in flatten_maps([self.conv_centerness(x) for x in hidden], 1)],
            [grid_points(x.shape[-2:], stride, x.device) for x, stride in zip(maps, self.strides)],
        )

    def assign(self, points: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The points that learn an object, and which: int64 (K,) each, into all levels' points and ``boxes`` (G, 4).

        Of several objects around a point the smallest counts. Objects are taken in pieces, see `in_pieces`.
        """
        if not len(boxes):
            empty = boxes.new_zeros(0, dtype=torch.int64)
            return empty, empty
        bounds = (-1.0, *self.settings.bounds, 1e8)
        low, high = (
            torch.cat([boxes.new_full((len(p), 1), b) for b, p in zip(side, points)]) for side in (bounds, bounds[1:])
        )
        locations = torch.cat(points)[:, None]
        smallest, objects = boxes.new_full((len(locations),), torch.inf), 0
        for first, part in in_pieces(boxes, len(locations)):
            sides = self.sides(locations, part)
            farthest = sides.amax(-1)
            fits = (sides.amin(-1) > 0) & (farthest >= low) & (farthest <= high)
            found, index = torch.where(fits, area(part), torch.inf).min(1)
            objects = torch.where(found < smallest, index + first, objects)  # of equal ones the first
            smallest = torch.minimum(found, smallest)
        chosen = smallest.isfinite().nonzero().squeeze(1)
        return chosen, objects[chosen]

    @staticmethod
    def sides(points: Tensor, boxes: Tensor) -> Tensor:
        """Distances (..., 4) from points (..., 2) to the left, top, right and bottom sides of boxes (..., 4)."""
        return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)

    def loss(self, outputs: FCOSOutputs, sizes: Sizes, targets: Targets) -> dict[str, Tensor]:
        """Losses of the batch. The sizes are not used: FCOS learns background on the padding, too."""
        logits, distances, centerness = (torch.cat(x, dim=1) for x in outputs[:3])
        points = torch.cat(outputs.points)
        labels = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        predicted, wanted, center_logits, centers = [], [], [], []
        for i, target in enumerate(targets):
            chosen, objects = self.assign(outputs.points, target["boxes"])
            labels[i, chosen] = target["labels"][objects]
            boxes = target["boxes"][objects]
            left, top, right, bottom = self.sides(points[chosen], boxes).unbind(-1)
            ratios = (torch.minimum(left, right) / torch.maximum(left, right)) * (
                torch.minimum(top, bottom) / torch.maximum(top, bottom)
            )
            centers.append(ratios.sqrt())
            center_logits.append(centerness[i, chosen])
            predicted.append(from_distances(points[chosen], distances[i, chosen]))
            wanted.append(boxes)
        predicted, wanted, center_logits, centers = map(torch.cat, (predicted, wanted, center_logits, centers))
        count = mean_over_ranks(numbers(len(centers), centers)).clamp(min=1)
        cls_loss = focal_loss(logits.flatten(0, 1), one_hot(labels.flatten(), self.num_classes))
        box_loss = iou_log_loss(predicted, wanted, centers) / mean_over_ranks(centers.sum()).clamp(min=1e-6)
        center_loss = F.binary_cross_entropy_with_logits(center_logits, centers, reduction="sum")
        return {"loss_cls": cls_loss / count, "loss_bbox": box_loss, "loss_centerness": center_loss / count}

    @torch.no_grad()
    def predict(self, outputs: FCOSOutputs, sizes: Sizes, selection: Selection) -> Detections:
        """Detections, from what `forward` gives."""
        results = []
        for i, size in enumerate(sizes):
            levels = []
            for logits, distances, centerness, locations in zip(*outputs):
                scores, factors = logits[i].sigmoid(), centerness[i].sigmoid()
                points, labels = selection.candidates(scores, factors)
                boxes = from_distances(locations[points], distances[i, points])
                # The threshold is on the class's score alone, the ranking on its product with the centerness.
                levels.append((boxes, scores[points, labels] * factors[points], labels))
            boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels))
            boxes = clip(boxes, size)
            results.append(selection.finish(boxes, scores, labels))
        return results
