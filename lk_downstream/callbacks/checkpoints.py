"""Checkpoints of the best and the last step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch import distributed

from lk_downstream.backbones import files
from lk_downstream.callbacks.due_validation import validate_if_due
from lk_downstream.errors import InputError, did_you_mean, near_names


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints as files: complete or not there, read as data alone, and by every node of a run from the first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a file beside ``path``, and put it in its place once it is on the disk.

        Lightning writes into memory, then into the folder for temporary files, from where it copies: a process that is
        killed meanwhile leaves half a checkpoint.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """See :func:`lk_downstream.backbones.files.read_run`; where a node has no such file, from the first process."""
        if not _several():
            return files.read_run(path)
        present = [None] * distributed.get_world_size()
        distributed.all_gather_object(present, Path(path).is_file())
        if all(present):
            return files.read_run(path)
        return _of_first(files.read_run(path) if distributed.get_rank() == 0 else None)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _of_first(value: Any) -> Any:
    """What the first process has: its files are those of the run."""
    values = [value]
    if _several():
        distributed.broadcast_object_list(values)
    return values[0]


class Checkpoints(ModelCheckpoint):
    """Keeps the best step by a validation metric, and the last step, so that a killed run loses little.

    A file is complete before it takes the place of the one before it, and a model that is lost (weights that are no
    numbers) takes the place of none: the run ends there.

    Args:
        monitor: Metric by which the best is chosen; None: the task's own.
        mode: Whether the largest or the smallest metric is the best.
        save_top_k: How many of the best are kept; -1: all.
        every_n_steps: ``last.ckpt`` is written at least this often, in optimizer steps, and at each validation.
        save_weights_only: Leave out what only resuming needs.
        dirpath: Where they lie; None: ``checkpoints`` in the run's folder.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        save_top_k: int = 1,
        every_n_steps: int = 1000,
        save_weights_only: bool = False,
        dirpath: str | None = None,
    ):
        if every_n_steps < 1:
            raise InputError(f"checkpoint.every_n_steps is {every_n_steps}: it must be at least 1")
        super().__init__(
            dirpath=dirpath,
            filename="best_step={step}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=save_weights_only,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.every_n_steps = every_n_steps
        self.saved_step = 0
        self.validated_step: int | None = None
        self.resumed = False  # from a checkpoint that says which step was validated
        self.limits: tuple[int, int | None] | None = None  # of a run that only has its last validation to do

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Take the task's own metric if none was asked for, and refuse one that no validation has."""
        self.monitor = self.monitor or task.monitor
        if stage == "fit":
            self._refuse_unknown(task)
        super().setup(trainer, task, stage)

    def _refuse_unknown(self, task: L.LightningModule) -> None:
        """Losses (``train/``) are known to the task's parts alone."""
        known = [f"val/{name}" for name in getattr(task, "metrics", ())]
        if known and self.monitor not in known and not self.monitor.startswith("train/"):
            near = [name for name in known if name.lower() == self.monitor.lower()]
            hint = did_you_mean(near) or near_names(self.monitor, known) or f"; there are {', '.join(known)}"
            raise InputError(f"checkpoint.monitor: the task has no metric {self.monitor!r}{hint}")
        falls = self.monitor == "val/ECE" or self.monitor.startswith("train/")
        if falls != (self.mode == "min"):
            rank_zero_warn(
                f"checkpoint.mode is {self.mode}, but {self.monitor} is better the {'lower' if falls else 'higher'} "
                "it is: the best checkpoint would be the worst"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and which step was validated last."""
        return {**super().state_dict(), "validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best of the run so far, in whichever folder it lies; of one that is gone, nothing."""
        self.validated_step = state_dict.get("validated_step")
        self.resumed = "validated_step" in state_dict
        models = _of_first({path: score for path, score in state_dict["best_k_models"].items() if Path(path).is_file()})
        if state_dict["best_model_path"] not in models:
            return
        worst = (min if self.mode == "max" else max)(models, key=models.get)
        kept = {"best_k_models": models, "kth_best_model_path": worst, "kth_value": models[worst]}
        super().load_state_dict({**state_dict, **kept, "dirpath": self.dirpath, "last_model_path": ""})

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Validate the step of a resumed checkpoint, if its run came to an end before it did."""
        if self.resumed:
            validate_if_due(trainer, self.validated_step == trainer.global_step, self.limits is not None)
        if self.limits:
            trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = self.limits

    def allow_last_validation(self, trainer: L.Trainer, checkpoint: dict[str, Any]) -> bool:
        """Let a run begin all of whose steps are done, if its last validation is not; whether it is not.

        Args:
            trainer: Before the training, whose limits are one more until it begins.
            checkpoint: Of the last step.
        """
        state = checkpoint["callbacks"].get(self.state_key, {})
        if state.get("validated_step", checkpoint["global_step"]) == checkpoint["global_step"]:
            return False
        loop = trainer.fit_loop
        self.limits = (loop.epoch_loop.max_steps, loop.max_epochs)
        loop.epoch_loop.max_steps += loop.epoch_loop.max_steps >= 0
        loop.max_epochs = loop.max_epochs + 1 if loop.max_epochs and loop.max_epochs > 0 else loop.max_epochs
        return True

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the last step now and then, never between accumulated batches, which change batch statistics."""
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole and trainer.global_step != self.saved_step and trainer.global_step % self.every_n_steps == 0:
            self.write_last(trainer)

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Do not evaluate a lost model."""
        self._refuse_lost(trainer)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the best and the last step."""
        if not trainer.sanity_checking:
            self.validated_step = trainer.global_step
        super().on_validation_end(trainer, task)
        # Not by Lightning's save_last, which leaves out every step that is not among the best.
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.write_last(trainer)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the last step if the last validation lies before it."""
        if trainer.global_step != self.saved_step:
            self.write_last(trainer)

    def write_last(self, trainer: L.Trainer, alone: bool = False) -> None:
        """Write ``last.ckpt``.

        Args:
            trainer: After a whole step.
            alone: Whether the first process writes without waiting for the others.
        """
        if trainer.fast_dev_run:
            return
        self._refuse_lost(trainer)
        path = str(Path(self.dirpath) / "last.ckpt")
        if alone:
            content = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
            trainer.strategy.save_checkpoint(content, path)
        else:
            trainer.save_checkpoint(path, self.save_weights_only)
        self.last_model_path, self.saved_step = path, trainer.global_step

    def _refuse_lost(self, trainer: L.Trainer) -> None:
        """End a run whose weights are infinite or not a number, which nothing brings back."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if all(bool(weight.isfinite().all()) for weight in trainer.lightning_module.parameters()):
            return
        loss = trainer.callback_metrics.get("train/loss")
        said = "" if loss is None else f" (the loss is {float(loss):.4g})"
        kept = f"; {self.last_model_path} is of a step before" if self.last_model_path else ""
        raise InputError(
            f"after step {trainer.global_step} the weights are no longer finite numbers{said}: lower the learning rate "
            f"(--model.optimizer.lr), warm up longer, or clip the gradients (--trainer.gradient_clip_val 1.0){kept}"
        )
