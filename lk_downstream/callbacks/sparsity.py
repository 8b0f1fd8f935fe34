"""Training of sparse weights whose places change."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from lk_downstream.callbacks.averaging import AveragedWeights
from lk_downstream.callbacks.gradients import first_gradients
from lk_downstream.callbacks.report import Section
from lk_downstream.data.module import run_steps
from lk_downstream.errors import InputError
from lk_downstream.optim import sparsity as rules

DENSE = 0.99  # a tensor that keeps at least this share of its weights is left dense, as in the authors' code


class DynamicSparsity(L.Callback):
    """Keeps a share of the weights at zero from the first step to the last, and now and then exchanges which.

    The training of SLaK (Liu et al., "More ConvNets in the 2020s", ICLR 2023; sparse_core.py of the authors'
    repository, VITA-Group/SLaK), for every task; the rules and whose they are: :mod:`lk_downstream.optim.sparsity`.
    Every ``update_every`` optimizer steps each tensor loses its smallest weights and gains as many others, which start
    at zero; the share that is exchanged falls by half a cosine from ``prune_rate`` to ``final_prune_rate``. To keep the
    zeros of a sparse model in fine-tuning, take ``init: zeros`` and ``update_every: 0``.

    The optimizer itself calls for the masks after each step that it takes, so they hold under every precision (a step
    that the loss scaler skips is none), with accumulated gradients, and in whatever is saved, averaged weights
    (:class:`AveragedWeights`) included. All processes have those of the first. Random choices depend on seed and step
    alone, so that a resumed run has the masks that it would have had.

    Gradients stay dense and the optimizer's moments with them: those of a masked weight describe the loss around zero,
    which is what growth by gradient or momentum looks at, and are up to date when it grows. A limit on the norm of the
    gradients counts them too. The average of a weight that has grown starts from its first value, as the authors' does.

    Other than in the authors' code, densities hold to one weight and not only in expectation, as many weights grow as
    were dropped, one that is dropped and grows in the same update starts at zero too, there is no update at the last
    step, after which nothing would be trained, and SNIP looks at the loss of the task, with its augmentation.

    Args:
        sparsity: Share of the weights that is zero, of all masked tensors together.
        init: How that is shared among the tensors: ``snip`` by the gradients of the first batches, ``erk`` by their
            shapes, ``uniform`` equally; which weights is random. ``zeros``: the weights that are zero in the model that
            the run starts from, whatever ``sparsity`` says; none of a dense one.
        growth: Which weights come in: any (``random``), or those of the largest ``gradient`` or ``momentum``.
        prune_rate: Share of the weights of a tensor that the first updates exchange.
        final_prune_rate: Share that the last ones exchange.
        update_every: Optimizer steps between updates; 0: no updates.
        only: Regular expression; of all trained matrices and kernels (parameters of 2 or 4 dimensions) those are masked
            in whose names it is found. The default is what the authors mask, with a classifier's own head; another is
            ``large_kernel.LoRA``. New heads stay dense: SNIP would leave some of a detector's layers a single weight.
        snip_batches: Batches of each process for ``snip``.
        seed: Of the random choices; None: the one given to ``seed_everything``, or 0.

    Attributes:
        masks: bool tensors by parameter name, from the start of the training on; without what is left dense.
        steps: Optimizer steps taken.
    """

    def __init__(
        self,
        sparsity: float = 0.4,
        init: Literal["snip", "erk", "uniform", "zeros"] = "snip",
        growth: Literal["random", "gradient", "momentum"] = "random",
        prune_rate: float = 0.3,
        final_prune_rate: float = 0.005,
        update_every: int = 100,
        only: str = "^backbone",
        snip_batches: int = 1,
        seed: int | None = None,
    ):
        shares = {"sparsity": sparsity, "prune_rate": prune_rate, "final_prune_rate": final_prune_rate}
        for option, value in shares.items():
            if not 0 <= value < 1:
                raise InputError(f"DynamicSparsity: {option} is a share, at least 0 and below 1, not {value}")
        for option, number, least in (("update_every", update_every, 0), ("snip_batches", snip_batches, 1)):
            if number < least:
                raise InputError(f"DynamicSparsity: {option} is {number}: it must be at least {least}")
        for option, value, known in (("init", init, {*rules.DENSITIES, "zeros"}), ("growth", growth, rules.GROWTH)):
            if value not in known:
                raise InputError(f"DynamicSparsity: {option} is one of {', '.join(sorted(known))}, not {value!r}")
        try:
            re.compile(only)
        except re.error as error:
            raise InputError(f"DynamicSparsity: only: {only!r} is no regular expression ({error})") from None
        self.sparsity, self.init, self.growth, self.update_every = sparsity, init, growth, update_every
        self.prune_rate, self.final_prune_rate = prune_rate, final_prune_rate
        self.only, self.snip_batches, self.seed = only, snip_batches, seed
        self.masks: dict[str, Tensor] = {}
        self.steps = 0
        self.restored: dict[str, Any] = {}
        self.hook: Any = None

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Forget another run, and refuse what cannot be kept sparse."""
        if stage != "fit":
            return
        self.masks, self.steps, self.restored = {}, 0, {}
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise InputError("DynamicSparsity needs whole weights on every device: set trainer.strategy to ddp")
        others = (type(callback) for callback in trainer.callbacks if isinstance(callback, WeightAveraging))
        if foreign := [kind.__name__ for kind in others if not issubclass(kind, AveragedWeights)]:
            raise InputError(
                f"{foreign[0]} averages weights that are no longer there: beside DynamicSparsity use "
                "lk_downstream.callbacks.AveragedWeights"
            )

    def state_dict(self) -> dict[str, Any]:
        """The masks, a bit for each weight, with their shapes, and the number of steps."""
        packed = {name: np.packbits(mask.flatten().cpu().numpy()) for name, mask in self.masks.items()}
        return {
            "masks": {name: torch.from_numpy(bits) for name, bits in packed.items()},
            "shapes": {name: list(mask.shape) for name, mask in self.masks.items()},
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds until the model is on its device."""
        self.restored = state_dict

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Make or restore the masks, apply them, and have the optimizer apply them from now on."""
        self.masks = self._restored_masks(task) if self.restored else self._first_masks(trainer, task)
        self._apply(trainer, task)
        self._log(trainer)
        (optimizer,) = trainer.optimizers
        total = run_steps(trainer)
        if self.update_every and math.isinf(total):
            raise InputError("DynamicSparsity needs the length of the run: set trainer.max_steps or trainer.max_epochs")
        self.hook = optimizer.register_step_post_hook(lambda *_: self._after_step(trainer, task, optimizer, total))

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Let go of the optimizer."""
        self._release()

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer."""
        self._release()

    def report_section(self, task: L.LightningModule) -> Section | None:
        """The share of weights that are not zero, of each masked tensor and of the whole model."""
        if not self.masks:
            return None
        named = dict(task.named_parameters())
        densities = {name: _density(named[name]) for name in self.masks}
        total = sum(parameter.numel() for parameter in named.values())
        left = sum(int(parameter.count_nonzero()) for parameter in named.values())
        line = f"{left / 1e6:.4g} M of {total / 1e6:.4g} M parameters are not zero ({100 * left / total:.1f} %)"
        counts = {"parameters": total, "nonzero": left, "density": left / total, "layers": densities}
        return Section("sparsity", counts, [_density_table(densities), line])

    def _first_masks(self, trainer: L.Trainer, task: L.LightningModule) -> dict[str, Tensor]:
        weights = {name: weight for name, weight in maskable(task, self.only).items() if weight.any()}
        if not weights:
            raise InputError(
                f"DynamicSparsity: no matrix or kernel of the model has a name in which {self.only!r} is found: set "
                "only to another regular expression, or to '' for all of them"
            )
        if self.init == "zeros":
            masks = {name: (weight.detach() != 0).contiguous() for name, weight in weights.items()}
        else:
            gradients = partial(first_gradients, trainer, task, weights, self.snip_batches)
            densities = rules.DENSITIES[self.init](weights, 1 - self.sparsity, gradients)
            generator = self._generator()
            masks = {name: rules.random_mask(weights[name], density, generator) for name, density in densities.items()}
        for mask in masks.values():
            _share_first(mask, trainer)
        sparse = {name: mask for name, mask in masks.items() if _density(mask) < DENSE}
        if self.init == "zeros" and not sparse and trainer.is_global_zero:
            Console(soft_wrap=True).print("sparsity: the weights that the run starts from have no zeros to keep")
        return sparse

    def _restored_masks(self, task: L.LightningModule) -> dict[str, Tensor]:
        named = dict(task.named_parameters())
        masks = {}
        for name, shape in self.restored["shapes"].items():
            if name not in named or list(named[name].shape) != shape:
                raise InputError(
                    f"the checkpoint holds a mask of {name} {shape}, which this run does not train: resume it with the "
                    "config.yaml of its own run"
                )
            bits = np.unpackbits(self.restored["masks"][name].cpu().numpy(), count=math.prod(shape))
            masks[name] = torch.from_numpy(bits).bool().view(shape).to(named[name].device)
        self.steps, self.restored = self.restored["steps"], {}
        return masks

    def _after_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: Optimizer, total: float) -> None:
        overflow = getattr(optimizer, "found_inf", None)  # set while a fused optimizer skips a step by itself
        if overflow is not None and overflow.any():
            return
        self.steps += 1
        self._apply(trainer, task)
        if self.update_every and self.steps % self.update_every == 0 and self.steps < total:
            rate = rules.cosine_rate(self.steps, total, self.prune_rate, self.final_prune_rate)
            self._update(trainer, task, optimizer.state, rate)
            self._log(trainer)

    @torch.no_grad()
    def _update(self, trainer: L.Trainer, task: L.LightningModule, states: Mapping[Tensor, Any], rate: float) -> None:
        """Exchange weights of every tensor."""
        generator, named = self._generator(), dict(task.named_parameters())
        kept = {name: rules.prune(named[name], mask, rate) for name, mask in self.masks.items()}
        removed = {name: int(mask.sum()) - int(kept[name].sum()) for name, mask in self.masks.items()}
        self.masks = {name: _share_first(mask, trainer) for name, mask in kept.items()}
        self._apply(trainer, task)  # what comes back at once starts at zero too
        for name, mask in kept.items():
            scores = rules.GROWTH[self.growth](named[name], states.get(named[name], {}), generator)
            self.masks[name] = _share_first(rules.grow(mask, scores, removed[name]), trainer)

    @torch.no_grad()
    def _apply(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Set to zero what is not in the masks, and let averages of weights that have grown start from their values."""
        named = dict(task.named_parameters())
        for name, mask in self.masks.items():
            named[name].mul_(mask)
        for callback in trainer.callbacks:
            averages = callback.averages(task) if isinstance(callback, AveragedWeights) else {}
            for name, average in averages.items():
                if name in self.masks:
                    weight, mask = (tensor.to(average.device) for tensor in (named[name], self.masks[name]))
                    average.copy_(torch.where(average == 0, weight, average * mask))

    def _log(self, trainer: L.Trainer) -> None:
        densities = {f"density/{name.removesuffix('.weight')}": _density(mask) for name, mask in self.masks.items()}
        for logger in trainer.loggers:
            logger.log_metrics(densities, step=trainer.global_step)

    def _generator(self) -> torch.Generator:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        return torch.Generator().manual_seed(seed * 1_000_003 + self.steps)

    def _release(self) -> None:
        if self.hook is not None:
            self.hook.remove()
            self.hook = None


def maskable(model: nn.Module, only: str = "") -> dict[str, nn.Parameter]:
    """The parameters that SLaK's authors mask: those of 2 or 4 dimensions, which norms, scales and biases are not.

    Args:
        model: A task or a network; may lie on the meta device.
        only: Regular expression that has to be found in the name.

    Returns:
        Parameters by name, in the model's order, without frozen ones.
    """
    named = model.named_parameters()
    return {name: p for name, p in named if p.ndim in (2, 4) and p.requires_grad and re.search(only, name)}


def _share_first(mask: Tensor, trainer: L.Trainer) -> Tensor:
    """Give all processes the mask of the first, in place."""
    if trainer.world_size > 1:
        torch.distributed.broadcast(mask.view(torch.uint8), 0)
    return mask


def _density(tensor: Tensor) -> float:
    return int(tensor.count_nonzero()) / tensor.numel()


def _density_table(densities: dict[str, float]) -> Table:
    """A row for each kind of layer: the blocks of a stage, which differ in their number alone, share one."""
    kinds: dict[str, list[float]] = {}
    for name, density in densities.items():
        layer = re.sub(r"(\.conv)?\.weight$", "", name)
        kind = re.sub(r"(stages\.\d+\.(?:blocks\.)?)\d+\.", r"\1*.", layer)
        kinds.setdefault(kind, []).append(density)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("sparse layers", overflow="fold")
    for column in ("number", "density", "from", "to"):
        table.add_column(column, justify="right")
    for kind, values in kinds.items():
        numbers = (sum(values) / len(values), min(values), max(values))
        table.add_row(kind, str(len(values)), *(f"{100 * number:.2f}" for number in numbers))
    return table
