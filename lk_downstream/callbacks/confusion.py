"""The confusion matrix of a validation, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import lightning as L
import numpy as np

from lk_downstream.callbacks.figures import Figures, plain_text, rendered, shown_name
from lk_downstream.callbacks.tables import write_table

MOST_NAMED = 60  # classes, above which their names are not drawn


class ConfusionMatrix(Figures):
    """Writes ``confusion_matrix.csv``, whose rows are the truth, and draws ``confusion_matrix.png`` at each validation.

    Reads ``confusion`` of the task: counts of pixels or images, int64 (classes, classes); None: there are too many
    classes.
    """

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the table, and draw, on the first process."""
        folder = trainer.log_dir  # asks all processes
        drawn = trainer.is_global_zero and not trainer.sanity_checking and not trainer.fast_dev_run
        if drawn and folder and task.results and task.confusion is not None:
            rows = ([name, *counts] for name, counts in zip(task.classes, task.confusion.tolist()))
            write_table(Path(folder) / "confusion_matrix.csv", ["truth", *task.classes], rows)
        super().on_validation_end(trainer, task)

    def figures(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """The shares of each true class."""
        if task.results and task.confusion is not None:
            yield "confusion_matrix", draw_matrix(task.confusion.numpy(), task.classes)


def draw_matrix(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Shares of the predictions within each true class that occurs, as a picture.

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
