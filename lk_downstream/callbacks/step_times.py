"""What a run will take, from its first steps."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L

from lk_downstream.callbacks.report import write_json
from lk_downstream.data.module import run_steps
from lk_downstream.machine import peak_memory


class StepTimes(L.Callback):
    """Writes the seconds of a step and of a validation batch, and how many of them the run has, and ends the process.

    Args:
        file: Where they are written, as JSON: ``step`` and ``batch`` (seconds), ``steps``, ``batches`` (of one
            validation), ``validations``, ``memory`` (GiB, or null).
        steps: Optimizer steps that are measured; the first is left out, as it prepares much.
    """

    def __init__(self, file: str, steps: int = 4):
        self.file, self.steps = file, steps
        self.times: list[float] = []
        self.batches: list[float] = []
        self.began = 0.0

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock of a batch."""
        self.began = time.perf_counter()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.batches.append(time.perf_counter() - self.began)

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock of the first step."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        """Stop it after whole steps, and the process after enough."""
        if trainer.global_step <= len(self.times):  # within an accumulation
            return
        now = time.perf_counter()
        self.times.append(now - self.began)
        self.began = now
        total = run_steps(trainer)
        if len(self.times) >= min(self.steps, total):
            if trainer.is_global_zero:
                write_json(Path(self.file), self._measured(trainer, total))
            raise SystemExit(0)

    def _measured(self, trainer: L.Trainer, total: float) -> dict[str, Any]:
        interval = trainer.val_check_batch
        if trainer.check_val_every_n_epoch is not None:
            interval = min(interval, trainer.num_training_batches) * trainer.check_val_every_n_epoch
        validations = math.ceil(total * trainer.accumulate_grad_batches / interval) if interval < math.inf else 1
        return {
            "step": statistics.median(self.times[1:] or self.times),
            "steps": total,
            "batch": min(self.batches, default=0.0),
            "batches": sum(trainer.num_val_batches),
            "validations": max(validations, 1),
            "memory": peak_memory(trainer.strategy.root_device),
        }
