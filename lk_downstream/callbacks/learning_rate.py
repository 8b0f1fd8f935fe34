"""A range test of the learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lk_downstream.callbacks.plots import spared
from lk_downstream.errors import InputError
from lk_downstream.reports.files import write_image, write_table
from lk_downstream.reports.learning_rate import draw_rates

SMOOTHING = 0.9  # share of the mean of the losses that a step keeps
DIVERGED = 4.0  # times the lowest mean of the losses


class FindLearningRate(L.Callback):
    """In place of a training, raises the learning rate from step to step and sees where the loss falls fastest.

    The range test of Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017. The rate is that of
    ``model.optimizer.lr``: every parameter group has its own share of it (layer-wise decay), as in the training, and
    the schedule has no part. It ends after ``steps``, or where the loss has diverged, prints a suggestion, writes
    ``learning_rates.csv`` and ``learning_rates.png`` to the run's folder, and leaves the weights as they were. There is
    no validation. All processes have the same losses.

    Args:
        lowest: The first learning rate.
        highest: The last one.
        steps: Optimizer steps from the one to the other.
    """

    def __init__(self, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100):
        if not 0 < lowest < highest or steps < 10:
            raise InputError(
                f"FindLearningRate has lowest {lowest}, highest {highest} and {steps} steps: the first must be above 0 "
                "and below the second, and the steps at least 10"
            )
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.rates: list[float] = []
        self.losses: list[float] = []  # of each optimizer step
        self.parts: list[Tensor] = []  # of the accumulated batches of this one
        self.start: dict[str, Tensor] = {}
        self.folder: str | None = None

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Let there be no validation."""
        if stage == "fit":
            trainer.limit_val_batches = trainer.num_sanity_val_steps = 0
            self.folder = trainer.log_dir  # asks all processes

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Keep the weights."""
        self.start = {name: tensor.detach().cpu().clone() for name, tensor in task.state_dict().items()}

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates of the step, which the schedule has set otherwise."""
        rate = self.lowest * (self.highest / self.lowest) ** (len(self.losses) / (self.steps - 1))
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
        self.rates[len(self.losses) :] = [rate]

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a whole step, and end where it has diverged."""
        self.parts.append(trainer.callback_metrics["train/loss"].detach().float())
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.should_stop:
            return
        mean = trainer.strategy.reduce(torch.stack(self.parts).mean(), reduce_op="mean")
        self.losses.append(float(mean))
        self.parts = []
        means = averaged(self.losses)
        if len(means) >= self.steps or not math.isfinite(means[-1]) or means[-1] > DIVERGED * means.min():
            self._leave(trainer, task)
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was found; the run may also have been too short."""
        self._leave(trainer, task)
        if not trainer.is_global_zero or not self.losses:
            return
        rates = np.array(self.rates[: len(self.losses)])
        rate = suggestion(rates, self.losses)
        if self.folder and not trainer.fast_dev_run:
            rows = zip(rates.tolist(), self.losses, averaged(self.losses).tolist())
            written = ([f"{number:.6g}" for number in row] for row in rows)
            write_table(Path(self.folder) / "learning_rates.csv", ["rate", "loss", "mean"], written)
            with spared("learning_rates.png"):
                plot = draw_rates(rates, self.losses, averaged(self.losses), rate)
                write_image(Path(self.folder) / "learning_rates.png", plot)
        if rate is None:
            print("no learning rate to suggest: the loss never falls; look at learning_rates.png, or take more steps")
        else:
            print(f"the loss falls fastest at --model.optimizer.lr {rate:.2g}; see learning_rates.png")

    def _leave(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Give the task the weights that it had."""
        task.load_state_dict(self.start)


def averaged(losses: list[float]) -> np.ndarray:
    """The running mean of losses, in which older ones count less."""
    means, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**number))
    return np.array(means)


def suggestion(rates: np.ndarray, losses: list[float]) -> float | None:
    """The rate at which the mean of the losses falls fastest, by the logarithm of the rate, before its lowest.

    Args:
        rates: Rising.
        losses: At each.

    Returns:
        None where the loss never falls, or after fewer than four steps.
    """
    means = averaged(losses)
    end = int(np.where(np.isfinite(means), means, np.inf).argmin()) + 1
    if end < 4:
        return None
    slopes = np.gradient(means[:end], np.log(rates[:end]))
    return float(rates[slopes.argmin()]) if slopes.min() < 0 else None
