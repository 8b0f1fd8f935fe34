"""COCO's average precision for all images and classes at once, bit for bit as pycocotools has it.

The protocol is that of ``pycocotools/cocoeval.py`` (Dollar and Lin, see NOTICE), which goes through images, classes,
areas, thresholds and detections one by one in Python. Here the overlaps still come from pycocotools; the matching is
done for many images at a time, each step taking the next detection of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pycocotools.cocoeval import Params

_CHUNK = 2**22  # elements of the largest array while matching
Shapes = np.ndarray | list[dict[str, Any]]  # boxes (K, 4) x, y, w, h, or run lengths


class Results(NamedTuple):
    """Detections of several images, in the order of pycocotools' results."""

    images: np.ndarray  # (N,) ids
    categories: np.ndarray  # (N,) ids
    scores: np.ndarray  # (N,) float64
    shapes: Shapes


class Curves(NamedTuple):
    """As in pycocotools' ``eval``; -1 where no object counts."""

    precision: np.ndarray  # (thresholds, recalls, classes, areas) for the largest number of detections
    recall: np.ndarray  # (thresholds, classes, areas, numbers of detections); numbers below the largest for all areas


def curves(coco: Any, results: Results, kind: str, image_ids: Sequence[int]) -> Curves:
    """Precision and recall of results.

    Args:
        coco: pycocotools' annotations; their polygons become run lengths when masks are scored.
        results: Detections, whose images and categories the annotations have.
        kind: ``"bbox"`` or ``"segm"``.
        image_ids: Images that count.
    """
    from pycocotools.cocoeval import Params

    parameters = Params(kind)
    areas, limits = np.array(parameters.areaRng), np.minimum(parameters.iouThrs, 1 - 1e-10)
    image_ids, categories = sorted(set(image_ids)), sorted(coco.cats)
    most = parameters.maxDets[-1]
    annotations, pair_of = _truth(coco, kind, image_ids, categories)
    crowd = np.array([bool(item["iscrowd"]) for item in annotations], dtype=bool)
    area = np.array([item["area"] for item in annotations], dtype=np.float64)
    ignored = crowd | (area < areas[:, :1]) | (area > areas[:, 1:])  # (A, G)

    counted = np.flatnonzero(np.isin(results.images, image_ids) & np.isin(results.categories, categories))
    if len(counted) < len(results.scores):
        results = Results(*(_take(column, counted) for column in results))

    # Detections by class, image and falling score; no more than count of each class in an image.
    pair = np.searchsorted(categories, results.categories) * len(image_ids) + np.searchsorted(image_ids, results.images)
    order = np.lexsort((-results.scores, pair))
    pair = pair[order]
    rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
    order, pair, rank = order[rank < most], pair[rank < most], rank[rank < most]
    shapes = _take(results.shapes, order)
    sizes = shapes[:, 2] * shapes[:, 3] if kind == "bbox" else _areas(shapes)
    matched = np.zeros((len(areas), len(limits), len(pair)), dtype=bool)
    dropped = np.zeros_like(matched)
    first_truth = np.searchsorted(pair_of, np.arange(len(categories) * len(image_ids) + 1))
    truths = [item["bbox"] if kind == "bbox" else item["segmentation"] for item in annotations]
    truths = np.array(truths, dtype=np.float64).reshape(-1, 4) if kind == "bbox" else truths
    for tasks in _chunks(_overlapping(pair, shapes, first_truth, truths, crowd, limits[0]), len(areas) * len(limits)):
        best, detections = _match(tasks, crowd, ignored, limits)
        hit = best >= 0
        matched[..., detections] = hit
        dropped[..., detections] = hit & ignored[np.arange(len(areas))[:, None, None], best]
    outside = (sizes < areas[:, :1]) | (sizes > areas[:, 1:])
    dropped |= ~matched & outside[:, None]
    positives = np.stack([np.bincount(pair_of[~row] // len(image_ids), minlength=len(categories)) for row in ignored])
    return _accumulate(parameters, matched, dropped, results.scores[order], rank, pair // len(image_ids), positives.T)


class _Task(NamedTuple):
    """Detections of one class in one image that overlap an object enough to be matched."""

    detections: np.ndarray  # (D,) by falling score
    overlaps: np.ndarray  # (D, G)
    truth: int  # the first of the G objects


def _truth(coco: Any, kind: str, image_ids: Sequence[int], categories: Sequence[int]):
    """The objects that count, by class and image, and the number of this pair for each."""
    numbers = {category: number for number, category in enumerate(categories)}
    rows = [
        (numbers[item["category_id"]] * len(image_ids) + number, item)
        for number, image_id in enumerate(image_ids)
        for item in coco.imgToAnns.get(image_id, ())
        if item["category_id"] in numbers
    ]
    rows.sort(key=lambda row: row[0])
    if kind == "segm":
        for _, item in rows:
            if not isinstance(item["segmentation"], dict) or isinstance(item["segmentation"]["counts"], list):
                item["segmentation"] = coco.annToRLE(item)
    return [item for _, item in rows], np.array([pair for pair, _ in rows], dtype=np.int64)


def _overlapping(
    pair: np.ndarray, shapes: Shapes, first_truth: np.ndarray, truths: Shapes, crowd: np.ndarray, least: float
) -> Iterator[_Task]:
    """The pairs of class and image that have something to match."""
    from pycocotools import mask as rle

    present, starts = np.unique(pair, return_index=True)
    ends = np.append(starts[1:], len(pair))
    flags = crowd.astype(np.uint8)
    bounds = (starts, ends, first_truth[present], first_truth[present + 1])
    for start, end, truth, last in zip(*(bound.tolist() for bound in bounds)):
        if truth < last:
            overlaps = rle.iou(shapes[start:end], truths[truth:last], flags[truth:last])
            (rows,) = (overlaps.max(1) >= least).nonzero()
            if len(rows):
                yield _Task(start + rows, overlaps[rows], truth)


def _chunks(tasks: Iterator[_Task], width: int) -> Iterator[list[_Task]]:
    """Tasks with similar numbers of objects, as many together as memory allows."""
    groups: dict[int, list[_Task]] = {}
    for task in tasks:
        size = 1 << (task.overlaps.shape[1] - 1).bit_length()
        group = groups.setdefault(size, [])
        group.append(task)
        if len(group) * size * width > _CHUNK:
            yield groups.pop(size)
    yield from groups.values()


def _match(
    tasks: list[_Task], crowd: np.ndarray, ignored: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The object of every detection of all tasks, -1 for none: int32 (A, T, D), and which detections these are (D,).

    A detection takes, of the objects that are still free (or a crowd) and overlap it enough, the one it overlaps most,
    the last of several; objects that are ignored only if there is no other.
    """
    tasks = sorted(tasks, key=lambda task: -len(task.detections))
    counts = np.array([len(task.detections) for task in tasks])
    width = max(task.overlaps.shape[1] for task in tasks)
    overlaps = np.full((len(tasks), counts[0], width), -1.0)
    keep = np.zeros((len(tasks), width), dtype=bool)
    skip = np.zeros((len(tasks), len(ignored), 1, width), dtype=bool)
    detections = np.zeros((len(tasks), counts[0]), dtype=np.int64)
    for row, task in enumerate(tasks):
        extent = task.overlaps.shape[1]
        overlaps[row, : counts[row], :extent] = task.overlaps
        detections[row, : counts[row]] = task.detections
        keep[row, :extent] = crowd[task.truth : task.truth + extent]
        skip[row, :, 0, :extent] = ignored[:, task.truth : task.truth + extent]
    shape = (len(tasks), len(ignored), len(limits))
    free = np.ones((*shape, width), dtype=bool)
    truth = np.array([task.truth for task in tasks], dtype=np.int32)[:, None, None]
    best, order = [], []
    for step in range(counts[0]):
        live = int(np.searchsorted(-counts, -step))  # tasks with more than `step` detections
        overlap = overlaps[:live, step, None, None]
        able = free[:live] & (overlap >= limits[:, None])
        first = able & ~skip[:live]
        able = np.where(first.any(-1, keepdims=True), first, able)
        choice = width - 1 - np.where(able, overlap, -1.0)[..., ::-1].argmax(-1)
        hit = able.any(-1)
        best.append(np.where(hit, choice.astype(np.int32) + truth[:live], np.int32(-1)))
        order.append(detections[:live, step])
        rows, area, threshold = np.nonzero(hit)
        taken = choice[rows, area, threshold]
        free[rows, area, threshold, taken] = keep[rows, taken]
    return np.concatenate(best).transpose(1, 2, 0), np.concatenate(order)


def _accumulate(
    parameters: Params,
    matched: np.ndarray,
    dropped: np.ndarray,
    scores: np.ndarray,
    rank: np.ndarray,
    classes: np.ndarray,
    positives: np.ndarray,
) -> Curves:
    """Curves from the fate of every detection, (A, T, N), and the number of objects, (K, A)."""
    areas, thresholds, _ = matched.shape
    kinds = len(positives)
    precision = -np.ones((thresholds, len(parameters.recThrs), kinds, areas))
    recall = -np.ones((thresholds, kinds, areas, len(parameters.maxDets)))
    bounds = np.searchsorted(classes, np.arange(kinds + 1))
    for number in range(kinds):
        if not positives[number].any():
            continue
        part = slice(bounds[number], bounds[number + 1])
        order = np.argsort(-scores[part], kind="mergesort")
        hits, misses = matched[..., part][..., order], dropped[..., part][..., order]
        right, counted, ranks = hits & ~misses, ~misses, rank[part][order]
        for area in range(areas):
            total = positives[number, area]
            if total == 0:
                continue
            for which, most in enumerate(parameters.maxDets[:-1] if area == 0 else ()):  # of others no metric is made
                recall[:, number, area, which] = right[area][:, ranks < most].sum(1) / total
            recall[:, number, area, -1] = right[area].sum(1) / total
            # Recall reaches a value at a hit, and precision falls from hit to hit: of the k-th it is k in all so far.
            threshold, place = right[area].nonzero()
            nth = np.cumsum(right[area], axis=1, dtype=np.int32)[threshold, place]
            so_far = np.cumsum(counted[area], axis=1, dtype=np.int32)[threshold, place]
            height = np.zeros((thresholds, total))  # from the k-th hit on; none beyond the last
            height[threshold, nth - 1] = nth / (so_far + np.spacing(1))
            height = np.maximum.accumulate(height[:, ::-1], axis=1)[:, ::-1]
            needed = np.searchsorted(np.arange(total + 1) / total, parameters.recThrs, side="left")
            precision[:, :, number, area] = height[:, np.maximum(needed, 1) - 1]
    return Curves(precision, recall)


def _areas(codes: list[dict[str, Any]]) -> np.ndarray:
    """Areas of run lengths, float64."""
    from pycocotools import mask as rle

    # In parts: pycocotools counts them in a byte.
    parts = [rle.area(codes[start : start + 255]) for start in range(0, len(codes), 255)]
    return np.concatenate([np.empty(0), *parts])


def _take(shapes: Shapes, order: np.ndarray) -> Shapes:
    return shapes[order] if isinstance(shapes, np.ndarray) else [shapes[number] for number in order]
