"""Scores files of results in COCO's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lk_downstream import trust
from lk_downstream.data.coco_file import is_box, is_number, is_whole
from lk_downstream.data.coco_outlines import parse_outline
from lk_downstream.errors import InputError
from lk_downstream.metrics.coco import METRICS, PER_CLASS, Kind, Scores, score
from lk_downstream.metrics.coco_truth import Backend, check_outlines, load_annotations


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
    coco = load_annotations(annotations)
    rows = _read_json(Path(results))
    if not isinstance(rows, list):
        raise InputError(f"{results}: not a list of results, but {type(rows).__name__}")
    if kind is None:
        kind = "segm" if rows and isinstance(rows[0], dict) and "segmentation" in rows[0] else "bbox"
    if kind == "segm":
        check_outlines(coco, annotations)
    for i, row in enumerate(rows):
        fault = _fault(row, kind, coco)
        if fault:
            raise InputError(f"{results}: row {i} {fault}")
        if kind == "segm":
            row.pop("bbox", None)  # else loadRes would take the area from the box
    return score(coco, rows, kind, backend=backend)


def metrics_table(scores: Scores) -> Table:
    """Precision of each class and, last, of all, and below it the recall of all; in per cent, a dash for no object."""

    def show(value: float) -> str:
        return f"{100 * value:.2f}" if value >= 0 else "-"

    table = Table("class", *PER_CLASS, box=None, header_style="bold", pad_edge=False, caption_justify="left")
    for column in table.columns:
        column.no_wrap = True
        column.justify = "right" if column.header != "class" else "left"
    rows = {escape(name): metrics for name, metrics in scores.per_class.items()}
    for name, metrics in [*rows.items(), ("[bold]all[/]", scores.metrics)]:
        table.add_row(name, *(show(metrics[key]) for key in PER_CLASS))
    table.caption = "  ".join(f"{key} {show(scores.metrics[key])}" for key in METRICS if key not in PER_CLASS)
    return table


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


def _read_json(path: Path) -> Any:
    try:
        return trust.read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
