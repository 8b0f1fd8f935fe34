"""From scores to detections for a whole batch: :mod:`lk_downstream.detectors.selection` as a graph.

Rows that are no candidates have the score -1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lk_downstream.detectors.boxes import not_empty
from lk_downstream.detectors.selection import Selection

# Boxes, scores, overlap and number -> what is kept.
Suppress = Callable[[Tensor, Tensor, float, int], Tensor]
NONE = -1.0  # score of a row that is no candidate


class Detections(NamedTuple):
    """What is kept of each of N images, in K rows."""

    boxes: Tensor  # (N, K, 4), zeros in rows that are none
    scores: Tensor  # (N, K), zeros in rows that are none
    labels: Tensor  # int64 (N, K), -1 in rows that are none
    count: Tensor  # int64 (N,)


def rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (N, K, ...) of values (N, P, D) by an index (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def top(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The ``number`` highest of scores (N, K), best first, and where they are; as often as they lack, the score -1."""
    filled = torch.cat((scores, scores.new_full((1, 1), NONE).expand(scores.shape[0], number)), 1)
    values, index = filled.topk(number, 1)
    return values, torch.where(values > NONE, index, 0)


def above(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of point and class with a score above the threshold.

    Args:
        scores: (N, P, C).
        threshold: see `Selection`.

    Returns:
        Scores, points and classes (N, K), best first; K is the largest number of an image, and at least 1.
    """
    found = scores > threshold
    flat = torch.where(found, scores, NONE).flatten(1)
    number = found.sum((1, 2)).max().clamp(min=1).item()
    torch._check(number >= 1)
    values, index = top(flat, number)
    return values, index // scores.shape[2], index % scores.shape[2]


def candidates(rule: Selection, scores: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """`Selection.candidates` of one level of each image.

    Args:
        rule: how they are chosen.
        scores: (N, P, C).
        factors: (N, P), what the scores are multiplied with.

    Returns:
        Products of score and factor, points and classes (N, K).
    """
    if rule.rule == "points":
        ranking = (scores if factors is None else scores * factors[..., None]).amax(2)
        ranks, points = top(ranking, rule.per_level)
        scores = torch.where((ranks > NONE)[..., None], rows(scores, points), NONE)
        values, index, labels = above(scores, rule.score_threshold)
        points = points.gather(1, index)
    else:
        flat = torch.where(scores > rule.score_threshold, scores, NONE).flatten(1)
        values, index = top(flat, rule.per_level)
        points, labels = index // scores.shape[2], index % scores.shape[2]
    if factors is not None:
        values = torch.where(values > NONE, values * factors.gather(1, points), NONE)
    return values, points, labels


def finish(
    rule: Selection,
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    drop_empty: bool = True,
    suppress: Suppress | None = None,
) -> Detections:
    """`Selection.finish` of each image.

    Args:
        rule: how they are chosen.
        boxes: (N, K, 4).
        scores: (N, K).
        groups: int64 (N, K), within which boxes suppress each other; they become the labels.
        drop_empty: drop boxes of zero width or height first.
        suppress: :func:`kept_boxes` or a form of it; None: itself.
    """
    suppress = suppress or torch.ops.lk_downstream.kept_boxes
    valid = scores > NONE
    if drop_empty:
        valid = valid & not_empty(boxes)
    boxes = torch.where(valid[..., None], boxes, 0.0)
    scores = torch.where(valid, scores, NONE)
    # Shifted apart as in `grouped_nms`, so that overlaps are rounded alike.
    shift = groups.to(boxes.dtype) * (boxes.amax((1, 2)) + 1)[:, None]
    kept = suppress(boxes + shift[..., None], scores, rule.nms_iou, rule.keep)
    values, index = top(torch.where(kept, scores, NONE), rule.keep)
    there = values > NONE
    return Detections(
        torch.where(there[..., None], rows(boxes, index), 0.0),
        torch.where(there, values, 0.0),
        torch.where(there, groups.gather(1, index), -1),
        there.sum(1),
    )


@torch.library.custom_op("lk_downstream::kept_boxes", mutates_args=())
def kept_boxes(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    """Which boxes non-maximum suppression keeps, bool (N, K): of each image the best ``keep`` and perhaps more.

    Args:
        boxes: (N, K, 4).
        scores: (N, K); -1 where there is no box.
        iou: boxes that overlap a better one by more than this go.
        keep: how many are wanted.
    """
    return by_torchvision(boxes, scores, iou, keep)


@kept_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


OPERATOR = torch.ops.lk_downstream.kept_boxes.default


def by_torchvision(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    """:func:`kept_boxes` by torchvision's operator: one call, with the images shifted apart in float64."""
    shift = torch.arange(scores.shape[0], device=boxes.device) * (boxes.amax().double() + 1)
    apart = (boxes.double() + shift[:, None, None]).flatten(0, 1)
    index = torch.ops.torchvision.nms(apart, scores.flatten().double(), iou)
    kept = torch.zeros_like(scores, dtype=torch.bool).flatten()
    kept = kept.index_fill(0, index, True).reshape(scores.shape)
    return kept & (scores > NONE)


def by_onnx(boxes, scores, iou: float, keep: int):
    """:func:`kept_boxes` by ONNX's operator, which has images of its own."""
    from onnxscript import opset18 as op

    found = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[keep]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[NONE / 2]),
    )
    place = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)  # image and box
    ones = op.Squeeze(op.Cast(op.Greater(op.Slice(place, [0], [1], [1]), op.Constant(value_int=-1)), to=1), [1])
    kept = op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), place, ones)
    return op.Greater(kept, op.Constant(value_float=0.5))
