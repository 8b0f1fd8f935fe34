"""Parts of a backbone that are not trained, for good or for the first steps."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lk_downstream.errors import InputError
from lk_downstream.optim import pretrained_names


class FreezeBackbone(L.Callback):
    """Trains a task without its backbone, or without the first stages of it.

    Frozen parameters have no gradient, so that nothing is computed for those that lie below all others; and neither
    weight decay nor momentum moves them. Frozen modules are in evaluation mode: batch statistics stay, nothing is
    dropped. What a task adds to the network of the backbone (norms of levels, a classifier's last layer) is trained.

    What is frozen for good is not given to the optimizer. Otherwise the parameters wait in it, under the schedule of
    all, until they have their first gradient. It depends on the step alone, so that a resumed run goes on as it would
    have.

    Args:
        stages: The stem and how many stages are frozen; None: the whole backbone.
        until_step: Optimizer step from which on all is trained; None: never.
    """

    def __init__(self, stages: int | None = None, until_step: int | None = None):
        for name, value in (("stages", stages), ("until_step", until_step)):
            if value is not None and value < 1:
                raise InputError(f"{name} of FreezeBackbone is {value}: it must be at least 1, or left out")
        self.stages, self.until_step = stages, until_step
        self.parameters: list[nn.Parameter] = []
        self.modules: list[nn.Module] = []

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Find the parameters, before the optimizer takes those that are trained."""
        if stage != "fit":
            return
        named = dict(task.named_parameters())
        names = [name for name in pretrained_names(task, self.stages) if named[name].requires_grad]
        self.parameters = [named[name] for name in names]
        if self.until_step is None:
            self._freeze(True)
        elif isinstance(trainer.strategy, DDPStrategy):
            # The processes wait for the gradients of all parameters that were trained when the run began.
            trainer.strategy._ddp_kwargs["find_unused_parameters"] = True
        if trainer.is_global_zero:
            until = "" if self.until_step is None else f" until step {self.until_step}"
            total = sum(parameter.numel() for parameter in self.parameters)
            print(f"frozen{until}: {total / 1e6:.3g} M parameters of the backbone")

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the modules, some of which another class may have replaced."""
        frozen = {id(parameter) for parameter in self.parameters}

        def whole(module: nn.Module) -> list[nn.Module]:
            own = [id(parameter) for parameter in module.parameters()]
            if own and frozen.issuperset(own):
                return [module]
            return [part for child in module.children() for part in whole(child)]

        self.modules = whole(task.backbone)

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        """Freeze, or thaw; the Trainer has put all modules into training mode."""
        frozen = self.until_step is None or trainer.global_step < self.until_step
        if any(parameter.requires_grad == frozen for parameter in self.parameters):
            self._freeze(frozen)
        for module in self.modules:
            if module.training == frozen:
                module.train(not frozen)

    def _freeze(self, frozen: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
            parameter.grad = None
