"""The page of a run, drawn from the files in its folder alone, so that it can be drawn again at any time."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream import trust
from lk_downstream.errors import InputError, some
from lk_downstream.reports.charts import Chart, Line
from lk_downstream.reports.curves import Series, read_series, smoothed
from lk_downstream.reports.files import read_part, write_text
from lk_downstream.reports.images import Images, fitting, read_images
from lk_downstream.reports.page import MOST_BYTES, Section, page
from lk_downstream.reports.parts import Facts, Matrix, Number, Numbers, Table, Text
from lk_downstream.reports.tables import duration, metrics_of_kinds

PAGE = "report.html"
NEEDED = ("metrics.json", "metrics.csv")  # one of them
MOST_ROWS = 50  # of the table of images
MOST_CLASSES = 300  # of the table of classes; of more, those with the lowest metrics


def write_run_page(folder: str | os.PathLike) -> Path:
    """Draw the page of a run, finished or not, to ``report.html`` in its folder.

    Args:
        folder: The run's folder, such as ``runs/demo_segmentation/run_0``. What is missing of its files is left out.

    Returns:
        The path of the page, which has less than 10 MB: where there are too many large images, the worst are kept.

    Raises:
        InputError: The folder has none of the files of a run, or one of them is damaged.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in NEEDED):
        raise InputError(
            f"{folder} has neither metrics.json nor metrics.csv; give the folder of a run, such as "
            "runs/demo_segmentation/run_0"
        )
    metrics = read_part(folder, "metrics.json", trust.read_json) or {}
    series = read_part(folder, "metrics.csv", read_series) or {}
    images = read_images(folder)
    absolute = folder.absolute()
    title, subtitle = f"{absolute.parent.name}/{absolute.name}", str(metrics.get("started", ""))
    try:
        parts = _sections(folder, metrics, series)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        path = folder / "metrics.json"
        raise InputError(f"{path} is not what a run writes ({error}): remove it, or run anew") from error
    number = len(images.samples) if images else 0
    while True:
        shown = [_image_section(folder, images, number)] if images else []
        text = page(title, [*parts[:-1], *shown, parts[-1]], subtitle)
        if not number or len(text.encode("utf-8", "replace")) < MOST_BYTES:
            return write_text(folder / PAGE, text)
        number //= 2


def _rows(path: Path) -> list[list[str]]:
    """The cells of a table, its heading first."""
    text = trust.read_bytes(path).decode("utf-8", "replace")
    return list(csv.reader(io.StringIO(text, newline="")))


def _sections(folder: Path, metrics: dict[str, Any], series: dict[str, Series]) -> list[Section]:
    best, last = metrics.get("best") or {}, metrics.get("last") or {}
    summary = best.get("summary") or {}
    metric = next(iter(summary), "")
    when = f"best, step {best.get('step')}" if best.get("step") else ""
    numbers = [Number(metric, _percent(summary[metric]), when)] if metric else []
    kinds = metrics_of_kinds({name: np.nan if value is None else value for name, value in summary.items()})
    numbers += [Number(name, _percent(value)) for name, value in islice(summary.items(), 1, 6)] if not kinds else []
    if metric and last.get("step") != best.get("step"):
        numbers.append(Number(f"last {metric}", _percent(last["summary"][metric]), f"step {last['step']}"))
    if "seconds" in metrics:
        numbers.append(Number("time", duration(metrics["seconds"]), str(metrics.get("device", ""))))
    result: list[Any] = [Numbers(numbers)] if numbers else []
    if kinds:
        columns = list(kinds)
        result.append(Table(["metric", *columns[1:]], list(zip(*kinds.values())), percent=columns[1:]))
    tables = [_class_table(best["classes"])] if best.get("classes") else []
    if best.get("confused"):
        pairs = [[row[name] for name in ("truth", "prediction", "count", "share")] for row in best["confused"]]
        columns = ("truth", "prediction", "images", "share of the truth's")
        tables.append(Table(columns, pairs, percent=columns[3:], title="Most confused"))
    if best.get("calibration"):
        tables.append(_calibration(**best["calibration"]))
    matrix = read_part(folder, "confusion_matrix.csv", _matrix)
    if matrix:
        matrix = replace(matrix, unit="pixels" if "mIoU" in summary else "images")
    return [
        Section("Result", result),
        Section("Curves", _curves(series, f"val/{metric}")),
        Section("Classes", tables, f"of the best validation, step {best['step']}" if best.get("step") else ""),
        Section("Confusion matrix", [matrix] if matrix else [], "of the last validation"),
        Section("Run", _run_parts(folder, metrics)),
    ]


def _percent(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{100 * value:.2f}"


def _class_table(columns: Mapping[str, Sequence[Any]]) -> Table:
    """The classes that occur, the lowest first."""
    names = list(columns)
    rows = list(zip(*columns.values()))
    known = sorted((row for row in rows if row[1] is not None), key=lambda row: row[1])
    note = f"{len(rows) - len(known)} of {len(rows)} classes have no metric" if len(known) < len(rows) else ""
    if len(known) > MOST_CLASSES:
        note = f"the lowest {MOST_CLASSES} of {len(rows)} classes; all are in metrics.json"
    return Table(names, known[:MOST_CLASSES], percent=names[1:], bar=names[1], note=note)


def _calibration(count: Sequence[int], confidence: Sequence[float], accuracy: Sequence[float]) -> Chart:
    """Accuracy over confidence, in bins; on the diagonal a classifier is as sure as it should be."""
    rows = [(x, y) for x, y, number in zip(confidence, accuracy, count) if number]
    lines = [Line("calibrated", [0, 1], [0, 1], weak=True), Line("accuracy", *zip(*rows))] if rows else []
    return Chart(lines, "calibration", x="confidence", y="accuracy")


def _curves(series: dict[str, Series], monitor: str) -> list[Chart]:
    """Losses, learning rates and metrics of validations, as far as there are any."""
    charts, step = [], "optimizer step"
    losses = {name: points for name, points in series.items() if "loss" in name}
    lines, top = [], None
    if "train/loss" in losses:
        steps, values = losses.pop("train/loss")
        lines += [Line("loss", steps, values, weak=True), Line("loss", steps, _smooth(values))]
        low, high = np.percentile(values, (0, 99))
        top = 1.08 * high if len(values) > 20 and high > low else None
    lines += [Line(_short(name), steps, _smooth(values)) for name, (steps, values) in losses.items()]
    if lines:
        charts.append(Chart(lines, "loss", x=step, top=top))
    rates = {values.tobytes(): Line("", steps, values) for name, (steps, values) in series.items() if name[:3] == "lr-"}
    if rates:
        ordered = sorted(rates.values(), key=lambda line: -max(line.y))
        chosen = ordered if len(ordered) <= 4 else [ordered[0], ordered[-1]]
        named = [line._replace(name=f"at most {max(line.y):.3g}") for line in chosen]
        ratio = max(chosen[0].y) / (max(chosen[-1].y) or 1.0)
        charts.append(Chart(named, "learning rate", x=step, log_y=ratio > 20))
    metrics = {name: points for name, points in series.items() if name.startswith("val/") and "loss" not in name}
    if metrics:
        main = monitor if monitor in metrics else next(iter(metrics))
        others = [name for name in metrics if name != main]
        names = [main, *(others if len(others) < 7 else ())]
        lines = [Line(name[4:], steps, 100 * values) for name, (steps, values) in ((n, metrics[n]) for n in names)]
        title = "validation" if len(lines) > 1 else f"validation: {lines[0].name}"
        charts.append(Chart(lines, title, x=step, y="percent"))
    return charts


def _smooth(values: np.ndarray) -> np.ndarray:
    return smoothed(values, len(values) // 25)


def _short(name: str) -> str:
    return name.removeprefix("train/").replace("val/", "validation ")


def _matrix(path: Path) -> Matrix | None:
    heading, *rows = _rows(path)
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64)
    if counts.shape != (len(heading) - 1,) * 2:
        raise ValueError(f"{counts.shape} counts for {len(heading) - 1} classes")
    return Matrix(counts, heading[1:])


def _image_section(folder: Path, images: Images, number: int) -> Section:
    shown = fitting([[sample] for sample in images.samples[:number]])
    parts: list[Any] = [Images(shown, images.metric, images.classes, images.palette, images.all_of)] if shown else []
    rows = read_part(folder, "per_image.csv", _rows)
    if rows:
        heading, *cells = rows
        table = [[row[0], *map(_value, row[1:])] for row in cells[:MOST_ROWS]]  # a name of digits is no number
        note = f"the worst {len(table)} of {len(cells)}; all are in per_image.csv"
        parts.append(Table(heading, table, percent=heading[1:2], note=note, title="The worst images"))
    note = "of the last validation: the worst first, then some of the others"
    if len(shown) < len(images.samples):
        note += f"; {len(images.samples) - len(shown)} more are too large for this page"
    return Section("Images", parts, note)


def _value(cell: str) -> Any:
    with suppress(ValueError):
        return int(cell)
    with suppress(ValueError):
        return float(cell)
    return cell


def _run_parts(folder: Path, metrics: Mapping[str, Any]) -> list[Any]:
    """What made the run: the command, versions, the machine, the config."""
    facts: dict[str, Any] = {}
    for name in ("command", "started", "seconds", "processes", "device", "peak_memory_gib"):
        if metrics.get(name) is not None:
            facts[name.replace("_gib", ", GiB").replace("_", " ")] = metrics[name]
    for name in ("machine", "versions"):
        if metrics.get(name):
            facts[name] = ", ".join(f"{key} {value}" for key, value in metrics[name].items() if value is not None)
    facts["files"] = some([path.name for path in sorted(folder.iterdir()) if path.name != PAGE], 30)
    config = read_part(folder, "config.yaml", trust.read_text)
    again = f"lk-downstream report {folder}"
    return [Facts({**facts, "this page again": again}), *([Text(config, "config.yaml", folded=True)] if config else [])]
