"""Figure of a range test of the learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lk_downstream.reports.plotting import rendered


def draw_rates(rates: np.ndarray, losses: Sequence[float], means: np.ndarray, chosen: float | None) -> np.ndarray:
    """Losses and their running means over learning rates as a figure, uint8 (height, width, 3)."""
    from matplotlib.figure import Figure

    figure = Figure((6, 4), dpi=110, layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color="#9db8d2", linewidth=0.8)
    axis.plot(rates, means, color="#1f4e79", linewidth=1.8)
    if chosen is not None:
        axis.axvline(chosen, color="#c8553d", linestyle="--", linewidth=1.2, label=f"falls fastest at {chosen:.2g}")
        axis.legend(frameon=False, fontsize=8)
    known = means[np.isfinite(means)]
    if len(known):
        axis.set_ylim(0.9 * known.min(), min(1.1 * known.max(), 2 * known[0]))
    axis.set(xscale="log", xlabel="model.optimizer.lr", ylabel="loss")
    axis.grid(alpha=0.25, linewidth=0.6)
    return rendered(figure)
