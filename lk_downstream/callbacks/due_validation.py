"""The validation that a run owes when it is resumed from a checkpoint written before it."""

from __future__ import annotations

import lightning as L

from lk_downstream.data.module import DataModule


def validate_if_due(trainer: L.Trainer, validated: bool, last: bool = False) -> None:
    """Make up for the validation after the step of a checkpoint, before which its run has ended.

    Args:
        trainer: At the start of a resumed training.
        validated: Whether the run has done it.
        last: Whether it is that of the end, which is due whatever the intervals.
    """
    if not isinstance(trainer.datamodule, DataModule):
        return  # such a run goes on by Lightning's own counters, which finish a validation that was cut off
    if not trainer.enable_validation or not (last or _is_due(trainer)):
        return
    loop = trainer.fit_loop.epoch_loop
    # Lightning begins with the end of such a step, where it counts it as logged: not twice.
    loop._batches_that_stepped -= 1
    if validated:
        return
    trainer.validating = True  # as Lightning's loop does between two steps
    first = trainer._logger_connector._first_loop_iter
    loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first


def _is_due(trainer: L.Trainer) -> bool:
    """Whether a validation follows the step that has been reached."""
    every = trainer.check_val_every_n_epoch
    batches = trainer.global_step * trainer.accumulate_grad_batches
    if every is not None:  # it counts within each epoch
        epochs, batches = divmod(batches, trainer.num_training_batches)
        if not batches:
            epochs, batches = epochs - 1, trainer.num_training_batches
        if (epochs + 1) % every:
            return False
    return batches % trainer.val_check_batch == 0
