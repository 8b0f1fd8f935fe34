"""Plots of models side by side: the metric against what they cost, and over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lk_downstream.reports.comparison import Comparison
from lk_downstream.reports.plotting import plain_text, rendered, shown_name

COLOURS = ("#1f4e79", "#c8553d", "#588157", "#8d6a9f", "#d6a316", "#4c9f9f", "#7f7f7f", "#a05a7f")
# The costs that a plot can have below its metric: heading, attribute, factor
AXES = (
    ("latency of an image, ms", "latency", 1e3),
    ("multiply-adds, G", "macs", 1e-9),
    ("parameters, M", "parameters", 1e-6),
)


def draw_costs(comparison: Comparison) -> np.ndarray | None:
    """The metric against each cost, a bubble for each model as large as its parameters, with the Pareto front.

    Returns:
        uint8 (height, width, 3); None where no costs were measured.
    """
    from matplotlib.figure import Figure

    models = [model for model in comparison.models if model.costs and not math.isnan(model.level)]
    if not models:
        return None
    figure = Figure((4.6 * len(AXES), 3.9), dpi=110, layout="constrained")
    largest = max(model.costs.parameters for model in models)
    with plain_text():
        for axis, (heading, name, factor) in zip(figure.subplots(1, len(AXES), sharey=True), AXES):
            points = [(getattr(model.costs, name) * factor, 100 * model.level) for model in models]
            axis.plot(*zip(*(points[index] for index in pareto(points))), color="0.7", linewidth=1, zorder=1)
            for index, (model, (x, y)) in enumerate(zip(models, points)):
                colour, size = COLOURS[index % len(COLOURS)], 40 + 360 * model.costs.parameters / largest
                axis.scatter(x, y, s=size, color=colour, alpha=0.75, zorder=2, linewidth=0)
                if model.spread is not None:
                    axis.errorbar(x, y, 100 * model.spread, color=colour, linewidth=1, capsize=2)
                axis.annotate(shown_name(model.name), (x, y), (6, 6), textcoords="offset points", fontsize=8)
            _plain(axis, heading)
            axis.margins(0.22)
        figure.axes[0].set_ylabel(f"{comparison.metric}, %, mean of the best", fontsize=9)
        return rendered(figure)


def draw_curves(comparison: Comparison) -> np.ndarray | None:
    """The metric of every run over its steps, a colour for each model.

    Returns:
        uint8 (height, width, 3); None where no run was validated twice.
    """
    from matplotlib.figure import Figure

    if all(len(curve) < 2 for model in comparison.models for curve in model.curves):
        return None
    figure = Figure((7.2, 4.2), dpi=110, layout="constrained")
    with plain_text():
        axis = figure.subplots()
        for index, model in enumerate(comparison.models):
            label: str | None = shown_name(model.name)
            for curve in model.curves:
                steps = sorted(step for step, value in curve.items() if math.isfinite(value))
                values = [100 * curve[step] for step in steps]
                axis.plot(steps, values, color=COLOURS[index % len(COLOURS)], linewidth=1.2, alpha=0.8, label=label)
                label = None
        axis.set_ylabel(f"{comparison.metric}, %", fontsize=9)
        _plain(axis, "optimizer step")
        axis.legend(fontsize=8, frameon=False)
        return rendered(figure)


def _plain(axis: Any, heading: str) -> None:
    axis.set_xlabel(heading, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both: less of the first, more of the second; by rising cost."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front
