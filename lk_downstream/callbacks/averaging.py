"""Averaging of the weights over the optimizer steps, as the papers evaluate them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lk_downstream.data.module import run_steps
from lk_downstream.errors import InputError

SHORT = 0.05  # share of the first weights in the last average, from which on a run is too short for its decay


class AveragedWeights(WeightAveraging):
    """Exponential moving average of all weights and batch statistics, which is what is evaluated and saved.

    After every optimizer step ``average = decay * average + (1 - decay) * weights``, from the weights that the run
    starts with, without warm-up, as by timm's ModelEma in the recipes of ConvNeXt, RepLKNet and SLaK. Validations see
    the average. A checkpoint holds it as ``state_dict`` and the plain weights as ``current_model_state``, with which a
    resumed run goes on. When the run ends the task has the average.

    Lightning's callback does the averaging, the exchange and most of the checkpoint. Otherwise here: the average starts
    once the weights are loaded and on their device (Lightning copies the task before both, and its average is on the
    CPU and discards the first weights); whole numbers are copied, not averaged (which changes constant ones by
    rounding down); the plain weights are in the last checkpoint too, and the average also in one of weights alone and
    in one written during a validation.

    Args:
        decay: Share of the average that a step keeps; 0.9999 in the papers, less for runs of few steps: the start
            counts by ``decay ** steps``.
        device: Where the average lies; None: with the weights. ``cpu`` spares GPU memory and costs time.
    """

    def __init__(self, decay: float = 0.9999, device: str | None = None):
        if not 0 <= decay < 1:
            raise InputError(f"AveragedWeights: decay has to be at least 0 and below 1, not {decay}")
        super().__init__(device=device, use_buffers=True, multi_avg_fn=partial(_update, decay=decay))
        self.decay = decay
        self.exchanged = False  # whether the task has the average, and the average the plain weights

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start from the weights of the task, if the average was not restored, and lie as they lie."""
        restored = bool(self._average_model.n_averaged)
        for average, current in self._pairs(task):
            if current.dtype in (torch.float16, torch.bfloat16):
                raise InputError(
                    f"AveragedWeights: weights in {current.dtype} are too coarse to be averaged; set "
                    "trainer.precision to bf16-mixed or 16-mixed, which keep them in float32"
                )
            like = torch.empty_like(current, device=self._device)  # in the memory format that Task.setup chose
            average.data = like.copy_(average if restored else current).detach()
        self._average_model.n_averaged.clamp_(min=1)  # at 0 the first step would replace the average
        self._say_if_short(trainer)

    def averages(self, task: L.LightningModule) -> dict[str, Tensor]:
        """The average of each parameter and buffer of ``task`` by name, to be changed in place; empty out of ``fit``.

        During a validation these are the plain weights, and those of the task the average.
        """
        names = (name for name, _ in itertools.chain(task.named_parameters(), task.named_buffers()))
        return {name: average.detach() for name, (average, _) in zip(names, self._pairs(task))}

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Give the task the average."""
        if self._average_model is not None:
            self._exchange(task)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Give the task its plain weights back."""
        if self._average_model is not None:
            self._exchange(task)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Leave the plain weights to the checkpoint that is written now."""

    def on_fit_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Leave the average in the task."""
        self._copy_average_to_current(task)
        self._average_model = None

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Give the task its plain weights back if a validation was stopped."""
        if self.exchanged:
            self._exchange(task)

    def on_save_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of the weights, and these beside it."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, task, checkpoint)
            if self.exchanged:
                average, plain = checkpoint["current_model_state"], checkpoint["state_dict"]
                checkpoint |= {"state_dict": average, "current_model_state": plain}

    def on_load_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore both in training; a checkpoint without an average starts one, and an evaluation has its own."""
        if self._average_model is not None and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, task, checkpoint)

    def _say_if_short(self, trainer: L.Trainer) -> None:
        """Warn of a run after which the average is largely the weights that it started with."""
        steps = run_steps(trainer)
        share = self.decay**steps
        if share > SHORT and trainer.is_global_zero:
            Console(soft_wrap=True).print(
                f"AveragedWeights: after the {steps} steps of this run {100 * share:.0f} % of the average are the "
                f"weights that it starts with; a decay of {0.02 ** (1 / steps):.4g} leaves 2 %",
                style="yellow",
            )

    def _exchange(self, task: L.LightningModule) -> None:
        self._swap_models(task)
        self.exchanged = not self.exchanged

    def _pairs(self, task: L.LightningModule) -> Iterator[tuple[Tensor, Tensor]]:
        if self._average_model is None:
            return iter(())
        average, current = (
            itertools.chain(model.parameters(), model.buffers()) for model in (self._average_model.module, task)
        )
        return zip(average, current, strict=True)


def resume_plain(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let a run that is resumed without averaging go on with the plain weights, not with their average."""
    averaging = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    if trainer.state.fn == "fit" and "current_model_state" in checkpoint and not averaging:
        checkpoint["state_dict"] = checkpoint["current_model_state"]


def keep_average(trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Put the average into a checkpoint of weights alone, for which Lightning asks no callback."""
    for callback in trainer.callbacks:
        if isinstance(callback, AveragedWeights) and "callbacks" not in checkpoint:
            callback.on_save_checkpoint(trainer, task, checkpoint)
            for name in ("current_model_state", "averaging_state"):
                checkpoint.pop(name, None)


def _update(averages: list[Tensor], current: list[Tensor], count: Tensor, decay: float) -> None:
    """Move tensors of one type towards others."""
    if averages[0].is_floating_point():
        get_ema_multi_avg_fn(decay)(averages, current, count)
    else:
        for average, value in zip(averages, current):
            average.copy_(value)
