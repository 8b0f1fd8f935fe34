"""The confusion matrix of a validation, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np

from lk_downstream.callbacks.plots import Plots
from lk_downstream.reports.confusion import draw_matrix
from lk_downstream.reports.files import write_table


class ConfusionMatrix(Plots):
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

    def plots(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """The shares of each true class."""
        if task.results and task.confusion is not None:
            yield "confusion_matrix", draw_matrix(task.confusion.numpy(), task.classes)
