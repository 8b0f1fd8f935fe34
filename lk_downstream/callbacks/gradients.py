"""Gradients of the training loss before the training."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor


def first_gradients(
    trainer: L.Trainer, task: L.LightningModule, names: Iterable[str], batches: int
) -> dict[str, Tensor]:
    """The gradient of the loss of a task on its first training batches, in float32, the same in all processes.

    Nothing that belongs to the training changes: a copy of the task takes the steps, outside the Trainer's precision,
    on batches of a loader of its own, with the random numbers put back and nothing logged.

    Args:
        trainer: In training, its strategy set up.
        task: On its device; only its ``training_step`` is used.
        names: Of the parameters.
        batches: How many batches of each process.

    Returns:
        For each name the mean over batches and processes; zeros where the loss does not depend on a parameter.
    """
    model = copy.deepcopy(task).float().train()
    model.trainer = trainer
    model.log = lambda *args, **options: None  # Lightning refuses some of it before the first step
    named = dict(model.named_parameters())
    weights = {name: named[name] for name in names}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with isolate_rng():
        for number, batch in enumerate(_batches(trainer, batches)):
            output = model.training_step(trainer.strategy.batch_to_device(batch), number)
            loss = output["loss"] if isinstance(output, dict) else output
            # Not backward(), which would fill .grad and call the hooks of a parallel strategy.
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), found):
                if gradient is not None:
                    total += gradient / (batches * trainer.world_size)
    if trainer.world_size > 1:
        for total in sums.values():
            torch.distributed.all_reduce(total)
    return sums


def _batches(trainer: L.Trainer, number: int) -> list:
    """The first batches of an epoch, from a loader that the training does not use."""
    if trainer.datamodule is not None:
        return list(itertools.islice(trainer.datamodule.train_dataloader(), number))
    loader = copy.copy(trainer.train_dataloader)
    loader.num_workers = 0  # those that persist would not begin again
    state = loader.generator.get_state() if loader.generator else None
    batches = list(itertools.islice(loader, number))
    if state is not None:
        loader.generator.set_state(state)
    return batches
