"""Large kernels of several models side by side: where their weights lie, and where they are zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rich.table import Table

from lk_downstream.reports.plotting import plain_text, rendered, shown_name


class DrawnKernel(NamedTuple):
    """The mean kernel of a stage.

    Attributes:
        model: its name.
        stage: its number.
        magnitude: (K, K), mean absolute weight.
        nonzero: (K, K), share of the channels whose weight there is not zero.
        density: share of the weights that are not zero.
        outside: share of the absolute weights outside of the centred k x k, by k.
    """

    model: str
    stage: int
    magnitude: np.ndarray
    nonzero: np.ndarray
    density: float
    outside: Mapping[int, float]


def draw_kernels(kernels: Sequence[DrawnKernel]) -> np.ndarray:
    """A row for each model, a column for each stage; of models with zeros a second row of where they are.

    Absolute weights are shown on a logarithmic scale of three decades below the maximum of each kernel.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(kernel.model for kernel in kernels))
    sparse = {kernel.model for kernel in kernels if kernel.nonzero.min() < 1}
    rows = [(model, zeros) for model in models for zeros in ((False, True) if model in sparse else (False,))]
    stages = sorted({kernel.stage for kernel in kernels})
    with plain_text():
        figure = Figure((2.6 * len(stages) + 0.8, 2.9 * len(rows)), dpi=110, layout="constrained")
        axes = figure.subplots(len(rows), len(stages), squeeze=False)
        shown = {}
        for (row, column), axis in np.ndenumerate(axes):
            axis.set_axis_off()
            model, zeros = rows[row]
            kernel = next((k for k in kernels if (k.model, k.stage) == (model, stages[column])), None)
            if kernel is None:
                continue
            size = " x ".join(map(str, kernel.magnitude.shape))
            if zeros:
                shown[row] = axis.imshow(kernel.nonzero, "gray", vmin=0, vmax=1)
                title = f"not zero: {100 * kernel.density:.0f} % of the weights"
            else:
                relative = kernel.magnitude / max(kernel.magnitude.max(), 1e-30)
                shown[row] = axis.imshow(np.maximum(relative, 1e-3), "magma", norm=LogNorm(1e-3, 1))
                title = f"{shown_name(model, 24)}, stage {kernel.stage + 1}, {size}"
            axis.set_title(title, fontsize=8)
        for row, image in shown.items():
            bar = figure.colorbar(image, ax=axes[row], shrink=0.8)
            bar.set_label("share of channels" if rows[row][1] else "mean absolute weight over maximum", fontsize=7)
            if not rows[row][1]:
                bar.set_ticks([1e-3, 1e-2, 1e-1, 1], labels=["0.001", "0.01", "0.1", "1"])
            bar.ax.tick_params(labelsize=7)
        return rendered(figure)


def kernels_table(kernels: Sequence[DrawnKernel]) -> Table:
    """A row for each stage: how much lies outside of k x k, in percent, and how many weights are not zero."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="fold")
    sides = list(dict.fromkeys(side for kernel in kernels for side in kernel.outside))
    for name in ("stage", "kernel", "not 0", *(f"outside {side}x{side}" for side in sides)):
        table.add_column(name, justify="right", no_wrap=True)
    for kernel in kernels:
        table.add_row(
            kernel.model,
            str(kernel.stage + 1),
            "x".join(map(str, kernel.magnitude.shape)),
            f"{100 * kernel.density:.1f}",
            *(f"{100 * kernel.outside[side]:.1f}" for side in sides),
        )
    table.caption = "percent: of weights, and of absolute weight with all branches merged"
    table.caption_justify = "left"
    return table
