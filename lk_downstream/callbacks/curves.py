"""Training curves at the end of a run."""

from __future__ import annotations

import contextlib

import lightning as L

from lk_downstream.callbacks.plots import spared
from lk_downstream.errors import InputError
from lk_downstream.reports.curves import plot_run


class Curves(L.Callback):
    """Draws loss, learning rates and validation metrics to ``curves.png`` in the run's folder when the run ends."""

    def on_fit_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw the curves of a run that is complete."""
        self._draw(trainer, task.monitor)

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Draw the curves of a run that was stopped."""
        if trainer.state.fn == "fit" and trainer.global_step:
            self._draw(trainer, task.monitor)

    def _draw(self, trainer: L.Trainer, monitor: str) -> None:
        folder = getattr(trainer.logger, "log_dir", None)  # of this process: trainer.log_dir asks all of them
        if trainer.is_global_zero and folder:
            with spared("curves.png"), contextlib.suppress(InputError):  # a run too short to have metrics
                plot_run(folder, monitor)
