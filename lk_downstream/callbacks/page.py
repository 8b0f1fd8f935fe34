"""The page of a run, when it ends."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from lk_downstream.callbacks.plots import spared
from lk_downstream.reports.run import NEEDED, write_run_page


class RunPage(L.Callback):
    """Writes ``report.html`` to the run's folder when a training or an evaluation ends, also one that was stopped.

    It is drawn from the files that the run has written, see :func:`lk_downstream.reports.run.write_run_page`, by the
    first process, and takes less than a second. What goes wrong is one line.
    """

    def on_fit_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw the page of a training."""
        self._draw(trainer)

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Draw the page of a training that was stopped."""
        if trainer.state.fn == "fit" and trainer.global_step:
            self._draw(trainer)

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Draw the page of an evaluation, the end of which has no hook of its own."""
        if stage == "validate" and task.results:
            self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        folder = getattr(trainer.logger, "log_dir", None)  # of this process: trainer.log_dir asks all of them
        if not trainer.is_global_zero or not folder or trainer.fast_dev_run:
            return
        with spared("report.html"):
            if any((Path(folder) / name).is_file() for name in NEEDED):  # a run may be too short to have any
                write_run_page(folder)
