"""COCO average precision: results gathered once, scored as by pycocotools, the same on every process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch.distributed as dist
from torch import Tensor

from lk_downstream.errors import InputError
from lk_downstream.metrics.coco_scoring import Results, curves
from lk_downstream.metrics.coco_truth import Backend, check_outlines, load_annotations

Kind = Literal["bbox", "segm"]
Rows = list[dict[str, Any]]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
PER_CLASS = {"AP": (None, 0), "AP50": (0, 0), "AP75": (5, 0), "APs": (None, 1), "APm": (None, 2), "APl": (None, 3)}


class Scores(NamedTuple):
    """What COCO's evaluation gives for boxes or for masks, in 0 .. 1; -1 where no object counts, as in pycocotools."""

    metrics: dict[str, float]  # the twelve of METRICS
    per_class: dict[str, dict[str, float]]  # class name -> the metrics of PER_CLASS


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Run-length codes ``{"size": [H, W], "counts": str}`` of masks (K, H, W), bool or of 0 and 1."""
    from pycocotools import mask as rle

    # COCO counts column by column; transposed on the masks' own device, the copy is already in that order.
    columns = masks.byte().transpose(1, 2).contiguous().cpu().numpy().transpose(2, 1, 0)
    return [{"size": code["size"], "counts": code["counts"].decode()} for code in rle.encode(columns)]


def score(
    coco: Any,
    rows: Rows | Results,
    kind: Kind,
    image_ids: Iterable[int] | None = None,
    backend: Backend = "vectorized",
) -> Scores:
    """Scores results by COCO's protocol.

    Args:
        coco: of `load_annotations`.
        rows: results in COCO's format, or as arrays; not changed.
        kind: ``"bbox"`` or ``"segm"``.
        image_ids: images that count; all if not given.
        backend: ``"pycocotools"``, or the same metrics sooner: ``"vectorized"``, which is part of this package.

    Raises:
        InputError: an object of the ground truth has no mask, or no box, that the kind needs.
    """
    ids = sorted(coco.imgs if image_ids is None else image_ids)
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=ids)):
        if kind == "segm" and not annotation.get("segmentation"):
            raise InputError(f"annotation {annotation['id']} has no segmentation: score boxes (bbox) only")
        if kind == "bbox" and "bbox" not in annotation:
            raise InputError(f"annotation {annotation['id']} has no bbox: score masks (segm) only")
    if backend == "vectorized":
        precision, recall = curves(coco, _as_results(rows, kind), kind, ids)
        metrics = _metrics(precision, recall)
    else:
        metrics, precision = _by_pycocotools(coco, rows, kind, ids)
    per_class = {}
    for i, category in enumerate(sorted(coco.cats)):
        per_class[str(coco.cats[category]["name"])] = {
            name: _mean(precision[slice(None) if threshold is None else threshold, ..., i, area])
            for name, (threshold, area) in PER_CLASS.items()
        }
    return Scores(metrics, per_class)


def _by_pycocotools(coco: Any, rows: Rows | Results, kind: Kind, ids: list[int]) -> tuple[dict[str, float], np.ndarray]:
    """The metrics, and the precision (IoU thresholds, recalls, classes, areas) for 100 detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = _as_rows(rows, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        if rows:
            results = coco.loadRes([dict(row) for row in rows])  # it adds keys to the rows
        else:  # which loadRes does not bear
            results = COCO()
            results.dataset = {**coco.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(coco, results, kind)
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(METRICS, (float(value) for value in evaluation.stats)))
    return metrics, np.asarray(evaluation.eval["precision"])[..., -1]


def _metrics(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve metrics of `METRICS` from `curves`."""
    small, medium, large = 1, 2, 3
    half, strict = 0, 5  # the thresholds 0.5 and 0.75
    means = [_mean(precision[..., 0]), _mean(precision[half, ..., 0]), _mean(precision[strict, ..., 0])]
    means += [_mean(precision[..., area]) for area in (small, medium, large)]
    means += [_mean(recall[:, :, 0, number]) for number in range(recall.shape[-1])]
    means += [_mean(recall[:, :, area, -1]) for area in (small, medium, large)]
    return dict(zip(METRICS, means))


def _as_results(rows: Rows | Results, kind: Kind) -> Results:
    if isinstance(rows, Results):
        return rows
    shapes: Any = [row["bbox" if kind == "bbox" else "segmentation"] for row in rows]
    return Results(
        np.array([row["image_id"] for row in rows], dtype=np.int64),
        np.array([row["category_id"] for row in rows], dtype=np.int64),
        np.array([row["score"] for row in rows], dtype=np.float64),
        np.array(shapes, dtype=np.float64).reshape(-1, 4) if kind == "bbox" else shapes,
    )


def _as_rows(results: Rows | Results, kind: Kind) -> Rows:
    if not isinstance(results, Results):
        return results
    key = "bbox" if kind == "bbox" else "segmentation"
    columns = (value.tolist() if isinstance(value, np.ndarray) else value for value in results)
    names = ("image_id", "category_id", "score", key)
    return [dict(zip(names, values)) for values in zip(*columns)]


class _Found(NamedTuple):
    """Detections of one image."""

    categories: np.ndarray  # (K,) ids
    scores: np.ndarray  # (K,) float64
    boxes: np.ndarray  # (K, 4) x, y, w, h, float64
    codes: list[dict[str, Any]]  # run lengths of K masks, if masks are scored


class CocoEvaluator:
    """Collects detections over an epoch and over all processes, and scores each image once.

    Every process keeps the results of its own images as rows of COCO's format; `compute` gathers them once, drops
    images that came twice, scores them on the first process and tells all.

    Args:
        annotations: COCO annotation file, or its content.
        category_ids: the annotations' category of each label 0, 1, ...; in ascending order if not given.
        kinds: ``("bbox",)`` or ``("bbox", "segm")``.
        backend: see `score`.
        name: of the annotations in messages, if their content is given.

    Attributes:
        per_class: after `compute`, kind -> class name -> metrics.
        image_ids: after `compute`, the images that were scored, on the first process.
    """

    def __init__(
        self,
        annotations: str | Path | dict[str, Any],
        category_ids: Sequence[int] | None = None,
        kinds: Sequence[Kind] = ("bbox",),
        backend: Backend = "vectorized",
        name: str = "the annotations",
    ):
        self.coco = load_annotations(annotations)
        self.kinds, self.backend = tuple(kinds), backend
        self.category_ids = sorted(self.coco.cats) if category_ids is None else list(category_ids)
        unknown = sorted(set(self.category_ids) - self.coco.cats.keys())
        if unknown:
            raise InputError(f"category ids {unknown} are not in the annotations, which have {sorted(self.coco.cats)}")
        if "segm" in self.kinds:
            check_outlines(self.coco, name if isinstance(annotations, dict) else annotations)
        self._categories = np.array(self.category_ids, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forgets all detections."""
        self._seen: dict[int, _Found] = {}
        self._scored: dict[Kind, Results] = {}
        self.per_class: dict[Kind, dict[str, dict[str, float]]] = {}
        self.image_ids: list[int] = []

    @property
    def results(self) -> dict[Kind, Rows]:
        """After `compute`, on the first process: kind -> rows in COCO's format."""
        return {kind: _as_rows(results, kind) for kind, results in self._scored.items()}

    def update(self, image_ids: Sequence[int], predictions: Sequence[dict[str, Tensor]]) -> None:
        """Adds the detections of some images; an image that came before is left out.

        Args:
            image_ids: ids in the annotations.
            predictions: for each image ``boxes`` (K, 4) xyxy in pixels of the original, ``scores`` and ``labels`` (K,)
                and, if masks are scored, ``masks`` bool (K, H, W) of the original's size. An image without any counts.

        Raises:
            InputError: an id is not in the annotations.
        """
        for image_id, prediction in zip(map(int, image_ids), predictions):
            if image_id not in self.coco.imgs:
                raise InputError(f"image {image_id} is not in the annotations that it is to be scored with")
            if image_id not in self._seen:
                self._seen[image_id] = self._found(prediction)

    def _found(self, prediction: dict[str, Tensor]) -> _Found:
        boxes = prediction["boxes"].cpu().double().numpy().reshape(-1, 4)
        return _Found(
            self._categories[prediction["labels"].cpu().numpy()],
            prediction["scores"].cpu().double().numpy(),
            np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
            encode_masks(prediction["masks"]) if "segm" in self.kinds else [],
        )

    def compute(self) -> dict[str, float]:
        """Scores what all processes hold; each of them must call it.

        Returns:
            Metrics such as ``bbox_AP`` and ``segm_AP50``, equal on all processes: `METRICS` for each kind.

        Raises:
            InputError: on all processes, if the first could not score.
        """
        parallel = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        first = not parallel or dist.get_rank() == 0
        parts: list[Any] | None = [self._seen]
        if parallel:
            parts = [None] * dist.get_world_size() if first else None
            dist.gather_object(self._seen, parts, dst=0)
        answer: list[Any] = [None]
        if first:
            try:
                answer = [self._score(parts)]
            except Exception as error:
                if not parallel:
                    raise
                answer = [error]  # else the others would wait for ever
        if parallel:
            dist.broadcast_object_list(answer, src=0)
        if isinstance(answer[0], Exception):
            raise answer[0]
        self.per_class = {kind: scores.per_class for kind, scores in answer[0].items()}
        return {f"{kind}_{name}": value for kind, scores in answer[0].items() for name, value in scores.metrics.items()}

    def _score(self, parts: list[dict[int, _Found]]) -> dict[Kind, Scores]:
        images = {image_id: found for part in reversed(parts) for image_id, found in part.items()}
        self.image_ids = sorted(images)
        found = [images[image_id] for image_id in self.image_ids]
        categories, scores, boxes = (
            np.concatenate([empty, *(item[column] for item in found)])
            for column, empty in enumerate((np.empty(0, dtype=np.int64), np.empty(0), np.empty((0, 4))))
        )
        owners = np.repeat(np.array(self.image_ids, dtype=np.int64), [len(item.scores) for item in found])
        shapes = {"bbox": boxes, "segm": [code for item in found for code in item.codes]}
        self._scored = {kind: Results(owners, categories, scores, shapes[kind]) for kind in self.kinds}
        return {kind: score(self.coco, self._scored[kind], kind, self.image_ids, self.backend) for kind in self.kinds}

    def save(self, folder: str | Path) -> list[Path]:
        """Writes ``results.bbox.json`` and ``results.segm.json``, after `compute`, on the first process.

        Returns:
            The files; none on other processes.
        """
        paths = []
        for kind, rows in self.results.items():
            paths.append(Path(folder) / f"results.{kind}.json")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_text(json.dumps(rows), encoding="utf-8")
        return paths


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0
