"""A training that a signal ends: between two steps, with a checkpoint, and with the command that goes on."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console
from torch import distributed

from lk_downstream import slurm
from lk_downstream.callbacks.checkpoints import Checkpoints
from lk_downstream.errors import InputError
from lk_downstream.machine import shown_path
from lk_downstream.stopping import Signals, Stopped


class Stopping(L.Callback):
    """Ends a training on a signal before the next step begins, once all processes know of it.

    A validation of one process ends after its batch. One of several goes on, as its end is for all; the first process
    then writes the checkpoint at once. An evaluation ends wherever it is.

    Args:
        signals: What has come.
    """

    def __init__(self, signals: Signals):
        self.signals = signals
        self.votes = Votes()
        self.saved = False  # in a validation of several processes
        self.whole = False  # whether the state is that after a step

    def on_sanity_check_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the signals back from Lightning."""
        self.signals.install()

    on_validation_start = on_predict_start = on_sanity_check_start

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """From now on there is something to save."""
        self.signals.install()
        self.signals.deferred = True
        self.votes = Votes()

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """End the run if any process is to stop."""
        self.whole = False
        if batch_idx % trainer.accumulate_grad_batches == 0:
            number = self.votes.decide(self.signals.received or 0)
            if number:
                raise Stopped(number, between_steps=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """From now on, until the next batch is there, the step could be saved."""
        self.whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0

    def on_validation_batch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        """End a validation that would take too long, or save before its end."""
        if not self.signals.deferred or self.signals.received is None:
            return
        if trainer.world_size == 1:
            raise Stopped(self.signals.received, between_steps=True)
        # Without the barrier of Trainer.save_checkpoint, to which the others do not come now.
        if trainer.is_global_zero and not self.saved and isinstance(trainer.strategy, DDPStrategy):
            self.saved = True
            self._save(trainer, alone=True)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """The last step is done; what came too late ends the process at its end."""
        self.votes.close()
        self.signals.deferred = False

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Write the last step, and say how the run goes on."""
        self.signals.deferred = False
        stopped = isinstance(exception, Stopped)
        name = signal.Signals(exception.number).name if stopped else "an error"
        if trainer.state.fn != "fit":
            if stopped:
                _say(f"stopped by {name}")
            return
        if stopped and exception.between_steps and trainer.global_step:
            self._save(trainer)
        elif not stopped and self._can_save(trainer, exception):
            with suppress(OSError, InputError):  # the disk, or the weights, are what is wrong
                self._save(trainer, alone=True)
        if trainer.is_global_zero and (stopped or getattr(trainer.checkpoint_callback, "last_model_path", "")):
            _say(f"stopped at step {trainer.global_step} by {name}{self._how_to_go_on(trainer)}")
        if trainer.is_global_zero and name == "SIGUSR1":
            slurm.requeue()

    def _can_save(self, trainer: L.Trainer, exception: BaseException) -> bool:
        """Whether an error has come between two steps, as of loaders and full disks, and this process can save alone.

        Within a validation, which may have other weights (averages) in their place for a moment, that holds of what
        is raised where it happens, not of a loader's end, which interrupts whatever is under way.
        """
        own = not trainer.validating or isinstance(exception, (InputError, OSError))
        alone = trainer.world_size == 1 or isinstance(trainer.strategy, DDPStrategy)
        return self.whole and own and alone and trainer.is_global_zero

    def _save(self, trainer: L.Trainer, alone: bool = False) -> None:
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, Checkpoints) and checkpoints.saved_step != trainer.global_step:
            checkpoints.write_last(trainer, alone)

    def _how_to_go_on(self, trainer: L.Trainer) -> str:
        last = getattr(trainer.checkpoint_callback, "last_model_path", "")
        if not last:
            return ", before its first checkpoint"
        config = Path(last).parents[1] / "config.yaml"
        program = sys.argv[0]
        words = ["python", program] if program.endswith(".py") else ["lk-downstream", "fit"]
        words += ["--config", shown_path(str(config)), "--ckpt_path", shown_path(last)]
        return f"; to go on: {shlex.join(words)}"


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False)


class Votes:
    """What any process of a run wants, known to all of them at the same step, and a step later than it is asked.

    So no process waits for another, nor a GPU for its host.
    """

    def __init__(self) -> None:
        self.several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.group = distributed.new_group(backend="gloo") if self.several else None
        self.vote = torch.zeros(1, dtype=torch.int64)
        self.pending: Any = None

    def decide(self, number: int) -> int:
        """The highest number of all processes at the last call; of a single process, its own now."""
        if not self.several:
            return number
        self.close()
        decided = int(self.vote)
        self.vote = torch.tensor([number])
        self.pending = distributed.all_reduce(self.vote, distributed.ReduceOp.MAX, self.group, async_op=True)
        return decided

    def close(self) -> None:
        """Wait for the vote that is under way."""
        if self.pending is not None:
            self.pending.wait()
            self.pending = None
