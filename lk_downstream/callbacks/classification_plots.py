"""Reliability diagram and most confused pairs of a classifier at each validation."""

from __future__ import annotations

from collections.abc import Iterable

import lightning as L
import numpy as np

from lk_downstream.callbacks.plots import Plots
from lk_downstream.reports.classification import draw_pairs, reliability_diagram


class ClassificationPlots(Plots):
    """Draws ``reliability.png`` and ``confusions.png`` in the run's folder at each validation.

    Reads ``calibration`` and ``confused`` in ``results`` of the task, as of
    :class:`lk_downstream.tasks.Classification`.
    """

    def plots(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """What the task has counted."""
        if bins := task.results.get("calibration"):
            yield "reliability", reliability_diagram(bins["count"], bins["confidence"], bins["accuracy"])
        if pairs := task.results.get("confused"):
            yield "confusions", draw_pairs(pairs)
