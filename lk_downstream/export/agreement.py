"""How often two networks decide the same: what is said of files that round, and are kept all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from lk_downstream.export.comparison import in_turn

IOU = 0.5  # from which two boxes of a class are the same detection


@torch.no_grad()
def agreement(
    original: Callable[[Tensor], Sequence[Tensor] | Tensor],
    run: Callable[[Tensor], Sequence[Tensor]],
    names: Sequence[str],
    images: Iterable[Tensor],
    file: str,
    multilabel: bool = False,
) -> float:
    """The share of equal decisions over all images: of pixels, of images' best classes, or of detections, of both,
    that the other has, too: of the same class, with an IoU of 0.5 at least.

    Args:
        original: images uint8 (N, C, H, W) -> outputs.
        run: likewise, of a file.
        names: of the outputs.
        images: batches of them.
        file: its name, for messages.
        multilabel: whether each class of an image is decided for itself.

    Raises:
        RuntimeError: An output is not finite.
    """
    same = total = 0.0
    for batch in images:
        expected, got = original(batch), run(batch)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        for name, values in zip(names, got):
            if not values.isfinite().all():
                raise RuntimeError(f"{file} gives {name} that are not finite, and is not kept")
        count, number = _equal(dict(zip(names, expected)), dict(zip(names, got)), multilabel)
        same, total = same + count, total + number
    return same / total if total else 1.0


def _equal(expected: dict[str, Tensor], got: dict[str, Tensor], multilabel: bool) -> tuple[int, int]:
    """Equal decisions, and all."""
    if "count" in expected:
        pairs = [(_matched(a, b), len(a["labels"])) for a, b in in_turn(expected, got)]
        return sum(matched for matched, _ in pairs), sum(number for _, number in pairs)
    decisions = [_decided(outputs, multilabel) for outputs in (expected, got)]
    return int((decisions[0] == decisions[1]).sum()), decisions[0].numel()


def _decided(outputs: dict[str, Tensor], multilabel: bool) -> Tensor:
    if "classes" in outputs:
        return outputs["classes"]
    if "scores" in outputs:  # of all points, without a decision
        return outputs["scores"].argmax(-1)
    if multilabel:
        return outputs["probabilities"] > 0.5 if "probabilities" in outputs else outputs["logits"] > 0
    return next(iter(outputs.values())).argmax(1)


def _matched(one: dict[str, Tensor], other: dict[str, Tensor]) -> int:
    if not len(one["labels"]) or not len(other["labels"]):
        return 0
    near = box_iou(one["boxes"], other["boxes"]) >= IOU
    return int((near & (one["labels"][:, None] == other["labels"])).any(1).sum())
