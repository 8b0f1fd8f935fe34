"""What every task has in common: backbone, weights to start from, optimizer, normalisation."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lk_downstream.backbones import Backbone
from lk_downstream.backbones.weights import load_weights
from lk_downstream.callbacks.averaging import keep_average, resume_plain
from lk_downstream.callbacks.plots import draw_last
from lk_downstream.data.module import DataModule, run_steps
from lk_downstream.errors import InputError, some
from lk_downstream.optim import ParameterGroups
from lk_downstream.optim.half import EPS_FLOAT16, raise_eps
from lk_downstream.optim.schedules import catch_up
from lk_downstream.tasks import checkpoint_format, resume
from lk_downstream.tasks.channels import of_channels, scaled
from lk_downstream.tasks.determinism import refuse_unrepeatable
from lk_downstream.tasks.memory_order import arrange

OptimizerFactory = Callable[[Iterable], Optimizer]
ScheduleFactory = Callable[[Optimizer, int], LRScheduler]


class Task(L.LightningModule):
    """Base of the tasks; a task adds its head, its losses and its metric.

    Args:
        backbone: Multi-scale feature extractor.
        classes: Names of the classes.
        optimizer: Makes the optimizer from parameter groups.
        schedule: Makes the schedule from the optimizer and the number of optimizer steps of the run; None: constant.
        groups: Which parameters decay, and layer-wise learning rates.
        weights: File, URL or name of weights of the whole model to start from, in any published format.
        sync_batchnorm: Share batch statistics between GPUs, if there are several.
        channels_last: Keep maps in NHWC memory order, which is faster for depthwise convolutions. Training on
            a CPU with AVX2 alone leaves dense ones in NCHW, which is faster there.
        compile: Compile the backbone with ``torch.compile``.

    Attributes:
        metrics: Names of the metrics of a validation, which are logged as ``val/NAME``.
        monitor: Name of the logged metric by which the best checkpoint is chosen; higher is better.
        results: Metrics of the last complete validation: ``summary`` (name to value) and ``classes`` (columns of a
            table with a row for each class); empty before the first.
        recipe: Class and arguments of the task as plain data, if it was made by the command line; saved in checkpoints,
            see :func:`lk_downstream.tasks.load_task`.
        preparation: How images are prepared, where the task comes from a checkpoint that says it.
    """

    metrics: tuple[str, ...]
    monitor: ClassVar[str]
    kind: ClassVar[str]  # of its predictions: segmentation, detection, classification or multilabel
    own_callbacks: ClassVar[tuple[type[L.Callback], ...]] = ()  # that show and write predictions

    def __init__(
        self,
        backbone: Backbone,
        classes: tuple[str, ...],
        optimizer: OptimizerFactory = AdamW,
        schedule: ScheduleFactory | None = None,
        groups: ParameterGroups | None = None,
        weights: str | None = None,
        sync_batchnorm: bool = True,
        channels_last: bool = True,
        compile: bool = False,
    ):
        super().__init__()
        if not classes:
            raise InputError("the task has no classes; give `classes`, or a data module that knows them")
        self.backbone = backbone
        self.classes = tuple(classes)
        self.optimizer_factory = optimizer
        self.schedule_factory = schedule
        self.groups = groups or ParameterGroups()
        self.weights = weights
        self.sync_batchnorm = sync_batchnorm
        self.channels_last = channels_last
        self.compile_backbone = compile
        self.results: dict[str, dict[str, Any]] = {}
        self.recipe: dict[str, Any] = {}
        self.preparation: dict[str, Any] | None = None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone, name), dtype=torch.float32).view(-1, 1, 1) * 255
            self.register_buffer(name, values, persistent=False)

    def normalize(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The one place where images become network input.

        Args:
            images: uint8 (N, 3, H, W), RGB; of as many channels as the backbone takes, if these are others.
            sizes: int64 (N, 2), height and width of each image; what lies below and to the right is padding.

        Returns:
            (N, 3, H, W) by the mean and standard deviation of the backbone's weights, of the type of its parameters;
            padding is 0. See also :func:`of_channels`.
        """
        dtype = next(self.backbone.parameters()).dtype
        wide = torch.promote_types(dtype, torch.float32)  # 16 bits do not tell all grey levels from one another
        inputs = scaled(of_channels(images, len(self.mean)), self.mean, self.std, wide).to(dtype)
        if sizes is not None:
            rows = torch.arange(images.shape[-2], device=images.device) < sizes[:, :1]
            columns = torch.arange(images.shape[-1], device=images.device) < sizes[:, 1:]
            inputs = inputs * (rows[:, None, :, None] & columns[:, None, None, :])
        return inputs.contiguous(memory_format=torch.channels_last) if self.channels_last else inputs

    @property
    def channels(self) -> int:
        """Channels of the images that it takes; of RGB for a backbone of one channel, see :func:`of_channels`."""
        return 3 if len(self.mean) == 1 else len(self.mean)

    def _apply(self, *args: Any, **options: Any) -> Task:
        """Move and cast; mean and standard deviation keep their precision, of which 16 bits would leave eight."""
        super()._apply(*args, **options)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name), dtype=torch.float32).view(-1, 1, 1) * 255
            setattr(self, name, values.to(getattr(self, name).device))
        return self

    def configure_callbacks(self) -> list[L.Callback]:
        """Those of the task's own that the user has not given, whom Lightning would drop for ours."""
        given = self.trainer.callbacks
        return [own() for own in self.own_callbacks if not any(isinstance(callback, own) for callback in given)]

    def setup(self, stage: str) -> None:
        """Load weights and adapt the modules to the machine, once."""
        resume.refuse_callbacks(self.trainer)
        draw_last(self.trainer)
        if self.weights and not self.trainer.ckpt_path:
            report = load_weights(self, self.weights)
            lacking = [name for name in report.missing if not name.startswith("auxiliary_head.")]  # not used any more
            if lacking and stage != "fit":
                why = f" ({report.notes[0]})" if report.notes else ""
                raise InputError(
                    f"{self.weights} lacks {lacking[0]} and {len(lacking) - 1} more tensors of the model, without "
                    f"which it cannot be evaluated{why}: give the weights of the whole task, or train first"
                )
        self.weights = None
        device = self.trainer.strategy.root_device
        if device.type == "mps" and self.dtype == torch.float64:
            raise InputError(
                "--trainer.precision 64-true: Apple's GPUs have no float64; take another precision, or a CPU"
            )
        if stage == "fit":
            refuse_unrepeatable(self, device)
        if self.sync_batchnorm and self.trainer.world_size > 1 and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self)
        if self.channels_last:
            arrange(self, device, stage == "fit")
        if self.compile_backbone:
            self.backbone.compile()
            self.compile_backbone = False

    def on_train_start(self) -> None:
        """Bring the schedule of this run's config to the step that a resumed run begins with."""
        resume.validate_between_steps(self.trainer)
        for config in self.trainer.lr_scheduler_configs:
            catch_up(config.scheduler, self.trainer.global_step)

    def on_validation_start(self) -> None:
        """Evaluate no lost model."""
        resume.refuse_lost(self)

    on_predict_start = on_validation_start

    def on_train_batch_end(self, *args: Any) -> None:
        """Validate the last step."""
        resume.validate_last_step(self.trainer, run_steps(self.trainer))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let all random numbers of a step depend on seed, step and process alone, as in a run that was not stopped."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        place = (seed, self.trainer.global_step, batch_idx, self.global_rank)
        seeds = np.random.SeedSequence(place).generate_state(3).tolist()
        random.seed(seeds[0])
        np.random.seed(seeds[1])
        torch.manual_seed(seeds[2])

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer on the parameter groups, and the schedule by optimizer step."""
        optimizer = self.groups.optimizer(self, self.optimizer_factory)
        if raise_eps(optimizer) and self.trainer.is_global_zero:
            print(f"optimizer: eps is {EPS_FLOAT16}, as less is 0 in the float16 of the weights and leaves NaN")
        if self.schedule_factory is None:
            return {"optimizer": optimizer}
        steps = run_steps(self.trainer)
        if math.isinf(steps):
            raise InputError("the schedule needs the length of the run: set trainer.max_steps or trainer.max_epochs")
        schedule = self.schedule_factory(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint for other classes or of another model in a sentence."""
        checkpoint_format.check_format(checkpoint, "--ckpt_path: the file")
        classes = saved_classes(checkpoint)
        if classes and len(classes) != len(self.classes):
            raise InputError(
                f"--ckpt_path: the checkpoint was trained with {len(classes)} classes ({some(classes)}) where the data "
                f"have {len(self.classes)} ({some(self.classes)}): set --data.dataset to data with the checkpoint's "
                "classes, or start a new training from it by --model.weights"
            )
        resume_plain(self.trainer, checkpoint)
        own, saved = ({k: v.shape for k, v in state.items()} for state in (self.state_dict(), checkpoint["state_dict"]))
        both = own.keys() | saved.keys()
        if wrong := sorted(name for name in both if own.get(name) != saved.get(name)):
            raise InputError(
                f"--ckpt_path: the checkpoint is of another model ({len(wrong)} of all {len(both)} tensors differ, "
                f"such as {wrong[0]}): give the config.yaml of its run as --config"
            )
        if self.trainer.state.fn == "fit":
            resume.adopt(self.trainer, checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe, without the files that the run started from: a checkpoint is complete."""
        keep_average(self.trainer, self, checkpoint)
        checkpoint[checkpoint_format.KEY] = checkpoint_format.VERSION
        if isinstance(data := self.trainer.datamodule, DataModule):
            checkpoint["preparation"] = data.preparation()
        if self.recipe:
            recipe = copy.deepcopy(self.recipe)
            recipe["init_args"]["weights"] = None
            recipe["init_args"]["backbone"].get("init_args", {})["weights"] = None
            checkpoint["recipe"] = recipe

    def report(self, summary: dict[str, float], classes: dict[str, list], shown: Sequence[str] | None = None) -> None:
        """Log the metrics of a validation, those ``shown`` (None: all) also beside the progress, and keep them all in
        :attr:`results`.
        """
        prefix = self.monitor.split("/")[0]
        for name, value in summary.items():
            self.log(f"{prefix}/{name}", value, prog_bar=shown is None or name in shown, sync_dist=True)
        if not self.trainer.sanity_checking:
            self.results = {"summary": summary, "classes": classes}


def saved_classes(checkpoint: dict[str, Any]) -> list[str]:
    """Names of the classes that the model of a checkpoint was trained with; empty if it holds none."""
    return checkpoint.get("recipe", {}).get("init_args", {}).get("classes") or []
