"""The confusion matrix of a validation as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lk_downstream.reports.plotting import plain_text, rendered, shown_name

MOST_NAMED = 60  # classes, above which their names are not drawn


def draw_matrix(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Shares of the predictions within each true class that occurs, as an image.

    Args:
        matrix: Counts, (classes, classes), rows are the truth.
        classes: Class names.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    present = np.flatnonzero(matrix.sum(1) + matrix.sum(0))
    matrix = matrix[np.ix_(present, present)]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    number = max(len(present), 1)
    side = 2.4 + 0.26 * min(number, MOST_NAMED) if number <= MOST_NAMED else 10.0
    with plain_text():
        figure = Figure((side + 0.8, side), dpi=110, layout="constrained")
        axis = figure.subplots()
        shown = axis.imshow(shares.reshape(number, -1) if len(present) else np.zeros((1, 1)), "Blues", vmin=0, vmax=1)
        if number <= MOST_NAMED and len(present):
            names = [shown_name(classes[index], 24) for index in present]
            axis.set_xticks(range(number), names, fontsize=7, rotation=90)
            axis.set_yticks(range(number), names, fontsize=7)
        if number <= 16:
            for (row, column), share in np.ndenumerate(shares):
                colour = "white" if share > 0.6 else "black"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
        axis.set(xlabel="prediction", ylabel="truth")
        axis.set_title("share of the true class", fontsize=9)
        figure.colorbar(shown, shrink=0.7).ax.tick_params(labelsize=7)
        return rendered(figure)
