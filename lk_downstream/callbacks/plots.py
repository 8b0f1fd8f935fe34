"""Plots of a run, written to its folder and given to its loggers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from lk_downstream.reports.files import write_image
from lk_downstream.reports.plotting import spared


class Plots(L.Callback):
    """Draws plots at each validation, once the checkpoints are written: it draws after them, see :func:`draw_last`.

    They lie as ``NAME.png`` in the run's folder, and go to each logger that takes images. What goes wrong is one line.
    """

    def plots(self, trainer: L.Trainer, task: L.LightningModule) -> Iterable[tuple[str, np.ndarray]]:
        """Names and plots, uint8 (height, width, 3)."""
        raise NotImplementedError

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw on the first process."""
        folder = trainer.log_dir  # asks all processes
        if not trainer.is_global_zero or trainer.sanity_checking or trainer.fast_dev_run:
            return
        with spared(type(self).__name__):
            for name, plot in self.plots(trainer, task):
                publish(trainer, folder, name, plot)


def draw_last(trainer: L.Trainer) -> None:
    """Let plots be drawn after the checkpoints are written, which Lightning puts last."""
    trainer.callbacks.sort(key=lambda callback: isinstance(callback, Plots))


def publish(trainer: L.Trainer, folder: str | Path | None, name: str, plot: np.ndarray) -> None:
    """Write a plot uint8 (height, width, 3) as ``NAME.png``, and give it to the loggers as ``val/NAME``."""
    if folder:
        write_image(Path(folder) / f"{name}.png", plot)
    for logger in trainer.loggers:
        with spared(f"{name} for {type(logger).__name__}"):
            give(logger, f"val/{name}", plot, trainer.global_step)


def give(logger: Any, name: str, plot: np.ndarray, step: int) -> None:
    """Give a plot to a logger of any kind that takes images."""
    experiment = logger.experiment
    if hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(name, plot, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):  # W&B, whose own steps other values of this moment have passed
        logger.log_image(name, [plot])
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_image(logger.run_id, plot, artifact_file=f"{name}/{step:08d}.png")
    elif hasattr(experiment, "log_image"):  # Comet
        experiment.log_image(plot, name=name, step=step)
