"""Training curves, drawn from the metrics that a run has logged."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream.errors import InputError, near_names
from lk_downstream.reports.files import write_image
from lk_downstream.reports.plotting import plain_text, rendered, shown_name

Series = tuple[np.ndarray, np.ndarray]  # optimizer steps, values

STRONG, WEAK = "#1f4e79", "#9db8d2"
OTHERS = ("#c8553d", "#588157", "#8d6a9f", "#d6a316", "#4c9f9f", "#7f7f7f")


def plot_run(folder: str | os.PathLike, monitor: str | None = None) -> Path:
    """Draw the curves of a run, finished or not, to ``curves.png`` in its folder.

    Args:
        folder: The run's folder, such as ``runs/demo_segmentation/run_0``, with its ``metrics.csv``.
        monitor: The metric that matters, such as ``val/mIoU``; None: the first of ``metrics.json``.

    Raises:
        InputError: The folder has no ``metrics.csv``, or this holds no metrics, or validations without ``monitor``.
    """
    folder = Path(folder)
    if not (folder / "metrics.csv").is_file():
        raise InputError(f"{folder} has no metrics.csv; give the folder of a run, such as runs/demo_segmentation/run_0")
    series = read_series(folder / "metrics.csv")
    if not series:
        raise InputError(f"{folder / 'metrics.csv'} holds no metrics; train for more steps than log_every_n_steps")
    if monitor is None and (folder / "metrics.json").is_file():
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("best", {}).get("summary", {})
        monitor = next((f"val/{name}" for name in summary), None)
    validated = [name for name in series if name.startswith("val/")]
    if monitor and validated and monitor not in validated:
        hint = near_names(monitor, validated) or f"; it has {', '.join(validated[:5])}"
        raise InputError(f"{folder / 'metrics.csv'} has no metric {monitor}{hint}")
    absolute = folder.absolute()
    write_image(folder / "curves.png", draw_curves(series, monitor, f"{absolute.parent.name}/{absolute.name}"))
    return folder / "curves.png"


def read_series(path: str | os.PathLike) -> dict[str, Series]:
    """The metrics in a ``metrics.csv`` by name: optimizer steps, counted from 1 and rising, and finite values."""
    found: dict[str, dict[int, float]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in (None, "step", "epoch") and text and row.get("step"):
                    value = float(text)
                    if math.isfinite(value):
                        found.setdefault(name, {})[int(row["step"]) + 1] = value
    return {name: tuple(map(np.asarray, zip(*sorted(points.items())))) for name, points in found.items()}


def draw_curves(series: dict[str, Series], monitor: str | None = None, title: str = "") -> np.ndarray:
    """Draw losses, learning rates and validation metrics, as far as there are any, on a common axis of steps.

    Args:
        series: Steps and values by name: ``train/...``, ``lr-...`` for each parameter group, ``val/...``.
        monitor: The validation metric that is drawn boldly, with its best.
        title: What stands above.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, Series]] = {"loss": {}, "learning rate": {}, "validation": {}}
    for name, points in series.items():
        kind = "learning rate" if name.startswith("lr-") else "loss" if "loss" in name else "validation"
        if kind != "validation" or name.startswith("val/"):
            panels[kind][name] = points
    panels = {kind: found for kind, found in panels.items() if found}
    figure = Figure((5.2 * max(len(panels), 1), 3.8), dpi=110, layout="constrained")
    with plain_text():
        figure.suptitle(shown_name(title, 100), fontsize=10, color="0.35")
    draw = {"loss": _losses, "learning rate": _rates, "validation": lambda axis, found: _metrics(axis, found, monitor)}
    for axis, (kind, found) in zip(figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels.items()):
        draw[kind](axis, found)
        axis.set_title(kind, fontsize=10, loc="left")
        axis.set_xlabel("optimizer step", fontsize=8)
        axis.set_xlim(0, 1.02 * max(points[0][-1] for points in series.values()))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            for text in axis.legend(fontsize=7.5, frameon=False).get_texts():
                text.set_parse_math(False)
    return rendered(figure)


def smoothed(values: np.ndarray, span: int) -> np.ndarray:
    """The mean of about ``span`` values around each, of fewer at the ends."""
    window = np.ones(min(span // 2 * 2 + 1, len(values)))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _losses(axis: Any, found: dict[str, Series]) -> None:
    """The sum of the losses as it was and smoothed, its parts smoothed."""
    for colour, name in zip(OTHERS, (name for name in found if name != "train/loss")):
        steps, values = found[name]
        label = name.removeprefix("train/").replace("val/", "validation ")
        axis.plot(steps, smoothed(values, len(values) // 25), color=colour, linewidth=1, label=label)
    if "train/loss" in found:
        steps, values = found["train/loss"]
        axis.plot(steps, values, color=WEAK, linewidth=0.8, zorder=1)
        axis.plot(steps, smoothed(values, len(values) // 25), color=STRONG, linewidth=1.8, label="loss")
        low, high = np.percentile(values, (0, 99))
        if len(values) > 20 and high > low > 0:  # a few large losses at the start would flatten the rest
            axis.set_ylim(0 if low < 0.4 * high else 0.95 * low, 1.08 * high)


def _rates(axis: Any, found: dict[str, Series]) -> None:
    """The learning rate of each parameter group; groups that have the same are one line."""
    from matplotlib import colormaps

    different = {points[1].tobytes(): (name, points) for name, points in found.items()}
    rows = sorted(different.values(), key=lambda row: row[1][1].max())
    for index, (_, (steps, values)) in enumerate(rows):
        colour = STRONG if len(rows) == 1 else colormaps["viridis"](0.9 * index / (len(rows) - 1))
        named = len(rows) > 1 and (len(rows) <= 5 or index in (0, len(rows) - 1))
        kind = "highest" if index == len(rows) - 1 else "group" if index else "lowest"
        axis.plot(steps, values, color=colour, label=f"{kind}, at most {values.max():.3g}" if named else None)
    tops = [values.max() for _, (_, values) in rows]
    if min(tops) > 0 and max(tops) > 20 * min(tops):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:.3g}")
    if len(rows) > 5:
        axis.plot([], [], " ", label=f"{len(rows)} rates of {len(found)} parameter groups")


def _metrics(axis: Any, found: dict[str, Series], monitor: str | None) -> None:
    """The monitored metric with its best; the others thinly, if they are few."""
    monitor = monitor if monitor in found else next(iter(found))
    steps, values = found[monitor]
    best = int(values.argmax())
    label = f"{monitor.split('/', 1)[1]}, best {values[best]:.4g} at step {steps[best]}"
    axis.plot(steps, values, color=STRONG, linewidth=1.8, marker="o", markersize=3.5, label=label, zorder=3)
    axis.plot(steps[best], values[best], "o", color=STRONG, markersize=9, markerfacecolor="none")
    others = [name for name in found if name != monitor]
    for colour, name in zip(OTHERS, others if len(others) <= len(OTHERS) else ()):
        axis.plot(*found[name], color=colour, linewidth=1, marker=".", markersize=3, label=name.split("/", 1)[1])
