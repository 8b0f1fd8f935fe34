"""COCO average precision: results gathered once, scored as by pycocotools, the same on every process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch.distributed as dist
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lk_downstream.data.coco_file import check_content, is_box, is_number, is_whole, load_content
from lk_downstream.data.coco_index import parse_outline
from lk_downstream.errors import InputError
from lk_downstream.metrics.coco_scoring import Results, curves

Kind = Literal["bbox", "segm"]
Rows = list[dict[str, Any]]
Backend = Literal["vectorized", "pycocotools", "faster_coco_eval"]
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
PER_CLASS = {"AP": (None, 0), "AP50": (0, 0), "AP75": (5, 0), "APs": (None, 1), "APm": (None, 2), "APl": (None, 3)}


class Scores(NamedTuple):
    """What COCO's evaluation gives for boxes or for masks, in 0 .. 1; -1 where no object counts, as in pycocotools."""

    figures: dict[str, float]  # the twelve of FIGURES
    per_class: dict[str, dict[str, float]]  # class name -> the figures of PER_CLASS


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Run-length codes ``{"size": [H, W], "counts": str}`` of masks (K, H, W), bool or of 0 and 1."""
    # COCO counts column by column; transposed on the masks' own device, the copy is already in that order.
    columns = masks.byte().transpose(1, 2).contiguous().cpu().numpy().transpose(2, 1, 0)
    return [{"size": code["size"], "counts": code["counts"].decode()} for code in rle.encode(columns)]


def load_annotations(source: str | Path | dict[str, Any], backend: Backend = "vectorized") -> Any:
    """The ``COCO`` object of an annotation file, or of its content.

    ``area`` and ``iscrowd``, which files of other tools leave out, are filled in: the box's area (that of the mask for
    objects with one), and 0.

    Raises:
        InputError: the file is missing, or no COCO annotations; or the backend is not installed.
    """
    if isinstance(source, dict):
        check_content("the annotations", source)
        content = source
    else:
        content = load_content(Path(source))
    coco = _backend(backend)[0]()
    # a copy: the evaluation writes into the objects (polygons become run-length codes)
    coco.dataset = content = {**content, "annotations": [dict(item) for item in content["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = annotation.get("iscrowd") or 0
        outline = annotation.get("segmentation")
        if isinstance(outline, list) and outline and isinstance(outline[0], list) and len(outline[0]) <= 4:
            # pycocotools takes the first polygon of fewer than three points for a box and fails
            annotation["segmentation"] = [part for part in outline if len(part) > 4] or outline
        if annotation.get("area") is None:
            annotation["area"] = _area(coco, annotation)
    return coco


def _area(coco: Any, annotation: dict[str, Any]) -> float:
    """The area of an object's mask, or of its box if it has none that can be drawn."""
    image = coco.imgs[annotation["image_id"]]
    try:
        parse_outline(annotation.get("segmentation"), image["height"], image["width"])
    except (KeyError, ValueError):
        _, _, width, height = annotation.get("bbox", (0, 0, 0, 0))
        return width * height
    return float(rle.area(coco.annToRLE(annotation)))


def score(
    coco: Any,
    rows: Rows | Results,
    kind: Kind,
    image_ids: Iterable[int] | None = None,
    backend: Backend = "vectorized",
) -> Scores:
    """Scores results by COCO's protocol.

    Args:
        coco: of `load_annotations`, by the same backend.
        rows: results in COCO's format, or as arrays; not changed.
        kind: ``"bbox"`` or ``"segm"``.
        image_ids: images that count; all if not given.
        backend: ``"pycocotools"``, or the same figures sooner: ``"vectorized"``, which is part of this package, or
            ``"faster_coco_eval"``, which is a package of its own.

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
        figures = _figures(precision, recall)
    else:
        figures, precision = _by_library(coco, rows, kind, ids, backend)
    per_class = {}
    for i, category in enumerate(sorted(coco.cats)):
        per_class[str(coco.cats[category]["name"])] = {
            name: _mean(precision[slice(None) if threshold is None else threshold, ..., i, area])
            for name, (threshold, area) in PER_CLASS.items()
        }
    return Scores(figures, per_class)


def _by_library(
    coco: Any, rows: Rows | Results, kind: Kind, ids: list[int], backend: Backend
) -> tuple[dict[str, float], np.ndarray]:
    """The figures, and the precision (IoU thresholds, recalls, classes, areas) for 100 detections."""
    annotations_class, evaluation_class = _backend(backend)
    rows = _as_rows(rows, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        if rows:
            results = coco.loadRes([dict(row) for row in rows])  # it adds keys to the rows
        else:  # which loadRes does not bear
            results = annotations_class()
            results.dataset = {**coco.dataset, "annotations": []}
            results.createIndex()
        evaluation = evaluation_class(coco, results, kind)
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(FIGURES, (float(value) for value in evaluation.stats)))
    return figures, np.asarray(evaluation.eval["precision"])[..., -1]


def _figures(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """The twelve figures of `FIGURES` from `curves`."""
    small, medium, large = 1, 2, 3
    half, strict = 0, 5  # the thresholds 0.5 and 0.75
    means = [_mean(precision[..., 0]), _mean(precision[half, ..., 0]), _mean(precision[strict, ..., 0])]
    means += [_mean(precision[..., area]) for area in (small, medium, large)]
    means += [_mean(recall[:, :, 0, number]) for number in range(recall.shape[-1])]
    means += [_mean(recall[:, :, area, -1]) for area in (small, medium, large)]
    return dict(zip(FIGURES, means))


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


def score_file(
    annotations: str | Path, results: str | Path, kind: Kind | None = None, backend: Backend = "vectorized"
) -> Scores:
    """Scores an existing results file on all images of the annotations.

    Args:
        annotations: COCO annotation file.
        results: list of results in COCO's format.
        kind: what the file holds; masks if its rows have a segmentation, if not given.
        backend: see `score`.

    Raises:
        InputError: a file is missing or of another format, or a row names an image or a class that is not annotated.
    """
    coco = load_annotations(annotations, backend)
    rows = _read_json(Path(results))
    if not isinstance(rows, list):
        raise InputError(f"{results}: not a list of results, but {type(rows).__name__}")
    if kind is None:
        kind = "segm" if rows and isinstance(rows[0], dict) and "segmentation" in rows[0] else "bbox"
    if kind == "segm":
        _check_outlines(coco, annotations)
    for i, row in enumerate(rows):
        fault = _fault(row, kind, coco)
        if fault:
            raise InputError(f"{results}: row {i} {fault}")
        if kind == "segm":
            row.pop("bbox", None)  # else loadRes would take the area from the box
    return score(coco, rows, kind, backend=backend)


def figures_table(scores: Scores) -> Table:
    """Precision of each class and, last, of all, and below it the recall of all; in per cent, a dash for no object."""

    def show(value: float) -> str:
        return f"{100 * value:.2f}" if value >= 0 else "-"

    table = Table("class", *PER_CLASS, box=None, header_style="bold", pad_edge=False, caption_justify="left")
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right" if column.header != "class" else "left"
    rows = {escape(name): figures for name, figures in scores.per_class.items()}
    for name, figures in [*rows.items(), ("[bold]all[/]", scores.figures)]:
        table.add_row(name, *(show(figures[key]) for key in PER_CLASS))
    table.caption = "  ".join(f"{key} {show(scores.figures[key])}" for key in FIGURES if key not in PER_CLASS)
    return table


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

    Attributes:
        per_class: after `compute`, kind -> class name -> figures.
        image_ids: after `compute`, the images that were scored, on the first process.
    """

    def __init__(
        self,
        annotations: str | Path | dict[str, Any],
        category_ids: Sequence[int] | None = None,
        kinds: Sequence[Kind] = ("bbox",),
        backend: Backend = "vectorized",
    ):
        self.coco = load_annotations(annotations, backend)
        self.kinds, self.backend = tuple(kinds), backend
        self.category_ids = sorted(self.coco.cats) if category_ids is None else list(category_ids)
        unknown = sorted(set(self.category_ids) - self.coco.cats.keys())
        if unknown:
            raise InputError(f"category ids {unknown} are not in the annotations, which have {sorted(self.coco.cats)}")
        if "segm" in self.kinds:
            _check_outlines(self.coco, "the annotations" if isinstance(annotations, dict) else annotations)
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
        boxes = prediction["boxes"].double().cpu().numpy().reshape(-1, 4)
        return _Found(
            self._categories[prediction["labels"].cpu().numpy()],
            prediction["scores"].double().cpu().numpy(),
            np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
            encode_masks(prediction["masks"]) if "segm" in self.kinds else [],
        )

    def compute(self) -> dict[str, float]:
        """Scores what all processes hold; each of them must call it.

        Returns:
            Figures such as ``bbox_AP`` and ``segm_AP50``, equal on all processes: `FIGURES` for each kind.

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
        return {f"{kind}_{name}": value for kind, scores in answer[0].items() for name, value in scores.figures.items()}

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
            paths[-1].write_text(json.dumps(rows))
        return paths


def _fault(row: Any, kind: Kind, coco: Any) -> str:
    """What is wrong with a row of results; an empty string if nothing is."""
    content = "segmentation" if kind == "segm" else "bbox"
    for key in ("image_id", "category_id", "score", content):
        if not isinstance(row, dict) or key not in row:
            return f"has no {key}, which results of kind {kind} need"
    for key, known in (("image_id", coco.imgs), ("category_id", coco.cats)):
        if not is_whole(row[key]) or row[key] not in known:
            return f"has {key} {row[key]}, which the annotations do not have: use those the results were made for"
    if not is_number(row["score"]):
        return f"has the score {row['score']}, which is not a number"
    if kind == "bbox":
        return "" if is_box(row["bbox"]) else f"has the bbox {row['bbox']}, which is not [x, y, width, height]"
    image, code = coco.imgs[row["image_id"]], row["segmentation"]
    try:
        if isinstance(code, dict) and isinstance(code["counts"], str):
            parse_outline(code, image["height"], image["width"])
            return ""
    except (KeyError, ValueError):
        pass
    return f"has no run-length coded mask of the size of its image {row['image_id']}"


def _check_outlines(coco: Any, name: str | Path) -> None:
    """Refuse objects without a mask, and broken ones, which pycocotools would read beyond their end."""
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        if not {"height", "width"} <= image.keys():
            raise InputError(f"{name}: picture {image['id']} has no height and width, which masks need")
        try:
            parse_outline(annotation.get("segmentation"), image["height"], image["width"])
        except ValueError as error:
            raise InputError(f"{name}: annotation {annotation['id']} {error}") from None


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _backend(name: str) -> tuple[type, type]:
    """The classes of the annotations and of the evaluation."""
    if name in ("pycocotools", "vectorized"):
        return COCO, COCOeval
    try:
        module = importlib.import_module("faster_coco_eval")
    except ImportError:
        raise InputError(
            "the backend faster_coco_eval is not installed: install lk_downstream[coco] or use pycocotools"
        ) from None
    return module.COCO, module.COCOeval_faster


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
