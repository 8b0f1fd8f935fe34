"""Reliability diagram and most confused pairs of a classifier, drawn from counts over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lk_downstream.reports.plotting import plain_text, rendered, shown_name

ACCURACY, GAP, COUNT = "#1f4e79", "#c8553d", "#9db8d2"


def calibration_error(counts: Sequence[int], confidences: Sequence[float], accuracies: Sequence[float]) -> float:
    """Expected calibration error, of the arrays of :func:`reliability_diagram`; NaN without images."""
    counts, confidences, accuracies = (np.asarray(values, np.float64) for values in (counts, confidences, accuracies))
    filled = counts > 0
    if not filled.any():
        return float("nan")
    return float(np.average(np.abs(accuracies - confidences)[filled], weights=counts[filled]))


def reliability_diagram(counts: Sequence[int], confidences: Sequence[float], accuracies: Sequence[float]) -> np.ndarray:
    """Accuracy over confidence in bins of equal width from 0 to 1, over a histogram of the confidences.

    The diagram and the error of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        counts: Images in each bin.
        confidences: Mean confidence of the images in each bin, a fraction of 1; NaN where there are none.
        accuracies: Share of the images in each bin whose predicted class is right; likewise.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    counts, confidences, accuracies = (np.asarray(values, np.float64) for values in (counts, confidences, accuracies))
    edges = np.linspace(0, 1, len(counts) + 1)
    middles, width, filled = (edges[1:] + edges[:-1]) / 2, 0.92 / len(counts), counts > 0
    figure = Figure((4.6, 5.6), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    below = np.minimum(accuracies, confidences)[filled]
    gaps = np.abs(accuracies - confidences)[filled]
    upper.plot((0, 1), (0, 1), "--", color="0.6", linewidth=1, zorder=3)
    upper.bar(middles[filled], accuracies[filled], width, color=ACCURACY, label="accuracy")
    upper.bar(
        middles[filled],
        gaps,
        width,
        bottom=below,
        facecolor=(*_rgb(GAP), 0.3),
        edgecolor=GAP,
        linewidth=1,
        label="distance to mean confidence",
    )
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    error = calibration_error(counts, confidences, accuracies)
    figure.suptitle(f"Expected calibration error {100 * error:.2f} %", fontsize=11)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2, "frameon": False}  # bars may be anywhere
    upper.legend(fontsize=8, **above)
    lower.bar(middles, counts / max(counts.sum(), 1), width, color=COUNT)
    lower.set(xlabel="confidence", ylabel="share of images")
    if filled.any():
        means = {"accuracy": (accuracies, ACCURACY), "confidence": (confidences, GAP)}
        for (name, (values, colour)), style in zip(means.items(), ("-", "--")):
            mean = np.average(values[filled], weights=counts[filled])
            lower.axvline(mean, color=colour, linestyle=style, linewidth=1.3, label=f"mean {name} {100 * mean:.1f} %")
        lower.legend(fontsize=7.5, **above)
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return rendered(figure)


def draw_pairs(pairs: Sequence[dict[str, Any]]) -> np.ndarray:
    """The most frequent errors as bars with the names of the classes.

    Args:
        pairs: ``truth``, ``prediction``, ``count`` and ``share`` (of the true class's images) of each, most frequent
            first, as of :func:`lk_downstream.metrics.classification.confused_pairs`.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure((7.4, 0.9 + 0.24 * len(pairs)), dpi=120, layout="constrained")
        axis = figure.subplots()
        places, counts = np.arange(len(pairs)), [pair["count"] for pair in pairs]
        axis.barh(places, counts, 0.72, color=ACCURACY)
        for place, pair in zip(places, pairs):
            text = f" {pair['count']}  ({100 * pair['share']:.0f} %)"
            axis.text(pair["count"], place, text, va="center", fontsize=7.5, color="0.3")
        names = [[shown_name(pair[part], 30) for part in ("truth", "prediction")] for pair in pairs]
        names = ["  \N{RIGHTWARDS ARROW}  ".join(both) for both in names]
        axis.set_yticks(places, names, fontsize=8)
        axis.set_ylim(len(pairs) - 0.4, -0.6)
        axis.set_xlim(0, 1.18 * max(counts))
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(left=False)
        title = "Most confused: truth \N{RIGHTWARDS ARROW} prediction, images (share of the truth's)"
        axis.set_title(title, fontsize=10, loc="left")
        return rendered(figure)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
