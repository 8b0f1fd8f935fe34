"""Progress of the whole run, in optimizer steps: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from lk_downstream.data.module import run_steps


class RunProgress(L.Callback):
    """Shows how far a run is, its loss and its last metrics.

    Lightning's own bars count the batches of an epoch, which says little of a recipe of 160 000 steps.

    Args:
        seconds: Least time between two lines, where the output is no terminal.
    """

    def __init__(self, seconds: float = 15.0):
        self.seconds = seconds
        self.console = Console(soft_wrap=True)
        self.bar: Progress | None = None
        self.said = 0.0
        self.start = (0, 0.0)  # step and time

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Show the bar of the training."""
        self.start = (trainer.global_step, time.perf_counter())
        self.said = time.perf_counter()
        self._open(trainer, "step", run_steps(trainer), trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        """Count an optimizer step."""
        if self.bar is not None:
            if self.bar.tasks[0].completed != trainer.global_step:
                self.bar.update(self.bar.tasks[0].id, completed=trainer.global_step, metrics=_metrics(trainer))
        elif trainer.is_global_zero and time.perf_counter() - self.said > self.seconds:
            self._line(trainer)

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Show the bar of a validation."""
        if trainer.sanity_checking:
            return
        batches = sum(trainer.num_val_batches)
        if self.bar is not None:
            self.bar.add_task("validation", total=batches, metrics="")
        else:
            self._open(trainer, "validation", batches, 0)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Count a validation batch."""
        if self.bar is not None and not trainer.sanity_checking:
            self.bar.advance(self.bar.tasks[-1].id)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the bar of the validation away and show its metrics."""
        if trainer.sanity_checking:
            return
        if self.bar is not None:
            self.bar.remove_task(self.bar.tasks[-1].id)
            if not self.bar.tasks:
                self._close()
        if trainer.state.fn == "fit" and trainer.is_global_zero:
            self._line(trainer)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the bar away."""
        self._close()

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Show the bar of a prediction."""
        self.said = time.perf_counter()
        self._open(trainer, "prediction", sum(trainer.num_predict_batches), 0)

    def on_predict_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Count a batch of images."""
        if self.bar is not None:
            self.bar.advance(self.bar.tasks[-1].id)
        elif trainer.is_global_zero and time.perf_counter() - self.said > self.seconds:
            self.said = time.perf_counter()
            self.console.print(f"prediction {batch_idx + 1}/{sum(trainer.num_predict_batches)}")

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the error can be read."""
        self._close()

    def _open(self, trainer: L.Trainer, name: str, total: float, done: int) -> None:
        if trainer.is_global_zero and sys.stdout.isatty():
            whole = Column(no_wrap=True)
            count = MofNCompleteColumn(table_column=whole)
            times = (TimeElapsedColumn(table_column=whole), TimeRemainingColumn(table_column=whole))
            columns = (TextColumn("{task.description}"), BarColumn(20, table_column=whole), count, *times)
            metrics = TextColumn("{task.fields[metrics]}", table_column=Column())  # alone breaks, in a narrow terminal
            self.bar = Progress(*columns, metrics, console=self.console, transient=True)
            self.bar.add_task(name, total=None if math.isinf(total) else total, completed=done, metrics="")
            self.bar.start()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _line(self, trainer: L.Trainer) -> None:
        self.said = time.perf_counter()
        first, start = self.start
        rate = (trainer.global_step - first) / max(self.said - start, 1e-9)
        total = run_steps(trainer)
        left = f", {(total - trainer.global_step) / rate / 60:.0f} min left" if rate and not math.isinf(total) else ""
        of = "" if math.isinf(total) else f"/{total:.0f}"
        self.console.print(f"step {trainer.global_step}{of}  {_metrics(trainer)}  {rate:.2f} steps/s{left}")


def _metrics(trainer: L.Trainer) -> str:
    return "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.progress_bar_metrics.items()))
