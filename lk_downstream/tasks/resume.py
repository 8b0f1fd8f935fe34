"""What a resumed run takes from its checkpoint, and what its own config decides.

The optimizer step is the place of a run: epoch, batch, samples and learning rate follow from it and from the config, so
that a run that was changed is, from that step on, what its config says, and one that was not is the unbroken run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder

from lk_downstream.callbacks.checkpoints import Checkpoints
from lk_downstream.data import DataModule
from lk_downstream.errors import InputError


def place(trainer: L.Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Lightning's counters at the step of a checkpoint, by the epochs and accumulated batches of this run.

    Lightning's own count the batches of the run that wrote them, and call an epoch complete in which a run has ended.
    """
    data, step = trainer.datamodule, checkpoint["global_step"]
    if not isinstance(data, DataModule):  # nothing is known of its epochs
        return checkpoint["loops"]
    epoch, within = divmod(step, data.epoch_steps or 1)  # data without a whole step are refused where they are loaded
    _refuse_finished(trainer, checkpoint, epoch)
    batches, current = (count * trainer.accumulate_grad_batches for count in (step, within))
    state = trainer.fit_loop.state_dict()
    _fill(state["epoch_loop.batch_progress"], batches, current)
    _fill(state["epoch_loop.scheduler_progress"], step, within)
    for counted in state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"].values():
        _fill(counted, step, within)
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    _fill(state["epoch_progress"], epoch, epoch)
    if within:  # an epoch is under way
        for counted in (state["epoch_progress"]["total"], state["epoch_progress"]["current"]):
            counted["ready"] = counted["started"] = epoch + 1
    return {**checkpoint["loops"], "fit_loop": state}


def _fill(progress: dict[str, Any], total: int, current: int) -> None:
    progress["total"] = dict.fromkeys(progress["total"], total)
    progress["current"] = dict.fromkeys(progress["current"], current)


def _refuse_finished(trainer: L.Trainer, checkpoint: dict[str, Any], epoch: int) -> None:
    step, checkpoints = checkpoint["global_step"], trainer.checkpoint_callback
    for option, done, most in (("max_steps", step, trainer.max_steps), ("max_epochs", epoch, trainer.max_epochs)):
        if most is not None and 0 <= most <= done:
            own = most == done and isinstance(checkpoints, Checkpoints)
            if own and checkpoints.allow_last_validation(trainer, checkpoint):
                return
            raise InputError(
                f"--ckpt_path: the checkpoint is of step {step}, and trainer.{option} {most} ends the run there or "
                f"before: raise --trainer.{option} to go on, or evaluate the checkpoint"
            )


def nothing(trainer: L.Trainer, checkpoint: dict[str, Any]) -> list:
    """Of the schedules nothing is taken: they are made by the config and brought to the step, see `optim.schedules`."""
    return []


# Entry of a checkpoint -> what this run takes of it. All others are taken as they are: the weights (state_dict), the
# optimizer's moments (optimizer_states; its options are the config's, see `optim.moments`), what callbacks remember.
CONFIG_DECIDES: dict[str, Callable[[L.Trainer, dict[str, Any]], Any]] = {"loops": place, "lr_schedulers": nothing}


def adopt(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let the config of a resumed training decide what is its own, see `CONFIG_DECIDES`.

    Raises:
        InputError: The run is already at its end.
    """
    for name, decide in CONFIG_DECIDES.items():
        if name in checkpoint:
            checkpoint[name] = decide(trainer, checkpoint)


# Callbacks that a run cannot have -> why, and what there is.
REFUSED = {
    GradientAccumulationScheduler: "would change the batch of an optimizer step, which is data.batch_size: leave it "
    "out, and set trainer.accumulate_grad_batches",
    BatchSizeFinder: "would change data.batch_size, on which the recipe's learning rate stands: leave it out, and "
    "raise trainer.accumulate_grad_batches until a batch fits into memory",
    LearningRateFinder: "knows no parameter groups: take --trainer.callbacks+=FindLearningRate",
}


def refuse_callbacks(trainer: L.Trainer) -> None:
    """Refuse callbacks by which a run would not be what its config says."""
    for callback in trainer.callbacks:
        if reason := REFUSED.get(type(callback)):
            raise InputError(f"--trainer.callbacks: {type(callback).__name__} {reason}")


def refuse_lost(task: L.LightningModule) -> None:
    """Refuse to evaluate a model whose weights are no numbers; a training has its checkpoints' own words for it."""
    if task.trainer.state.fn == "fit":
        return
    lost = [name for name, weight in task.named_parameters() if not bool(weight.isfinite().all())]
    if lost:
        raise InputError(
            f"{len(lost)} of the model's tensors, such as {lost[0]}, are infinite or not a number, so that its "
            "metrics and predictions would mean nothing: take a checkpoint of an earlier step"
        )


def validate_last_step(trainer: L.Trainer, steps: float) -> None:
    """Let a training end with a validation, whatever its intervals: it is stopped after its last step, not left.

    Lightning validates where a training is asked to stop, and takes up its loop where it was left.

    Args:
        trainer: After a batch.
        steps: Optimizer steps of the whole run.
    """
    if trainer.global_step >= steps and not trainer.fast_dev_run:
        trainer.check_val_every_n_epoch = None  # of epochs that no validation ends
        trainer.should_stop = True


def validate_between_steps(trainer: L.Trainer) -> None:
    """Let no validation lie between the accumulated batches of a step, where the interval is a share of an epoch."""
    interval, accumulate = trainer.val_check_batch, trainer.accumulate_grad_batches
    if isinstance(interval, int):
        trainer.val_check_batch = max(interval - interval % accumulate, accumulate)
