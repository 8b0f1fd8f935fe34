"""Base of the data modules: global batch size, the order of the training, its length, and what it goes without."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from lk_downstream.data.batches import Transformed
from lk_downstream.data.classes import Palette
from lk_downstream.data.image_folder import ImageFolder
from lk_downstream.data.left_out import Drawn, LeftOut, WithLeftOut
from lk_downstream.data.loaders import Loaders
from lk_downstream.data.mix import Mix
from lk_downstream.data.readable import OfReadable, Readable, ReadableLoader
from lk_downstream.data.samplers import TrainingSampler, pass_length
from lk_downstream.data.sampling import Sampling
from lk_downstream.data.splits import Splits
from lk_downstream.errors import InputError


class DataModule(Loaders):
    """Loaders that are right for one process and for many.

    The Trainer must run with ``use_distributed_sampler=False``: the samplers here share the data among the processes
    themselves, in validation without repeating a sample.

    A subclass sets ``classes`` and ``palette`` in its ``__init__`` and ``train_set`` and ``val_set`` in ``setup``.

    Args:
        batch_size: Images per optimizer step, over all devices and accumulated batches.
        val_batch_size: Images per validation batch of one device.
        workers: Loader processes per device; None: one less than the cores that a device has, 1 to 8. 0 loads in the
            training process.
        repeat: How often an epoch passes the training split; more than 1 for small data sets.
        predict: An image or a folder of images to predict on.
        seed: Of the order of the training data; None: the one given to ``seed_everything``, or 0.
        skip_damaged: Train without the images and masks that cannot be read, and list them at the end.
        splits: Takes the validation data from the training split; None: they have a split of their own.
        sampling: Which training samples are drawn more often than others; None: all equally often.
        mix: Further data sets to train on.

    Attributes:
        left_out: The files that the training goes without.
        unreadable: A sentence for each image that this process could not predict on.
        classes: Names of the classes.
        palette: A colour (red, green, blue) for each class.
        ignore_index: Value of the masks where nothing is labelled, 255.
        value_range: See :func:`lk_downstream.data.bands.read_bands`.
        train_set: Training data, from ``setup`` on.
        train_groups: For each training sample the number of its group, where a batch is to be of one; None: all are.
        val_set: Validation data, from ``setup`` on.
    """

    classes: tuple[str, ...]
    palette: Palette
    ignore_index = 255
    channels = 3  # of the images, see use_channels
    value_range: tuple[float, float] | None = None
    train_groups: Sequence[int] | None = None

    def __init__(
        self,
        batch_size: int = 16,
        val_batch_size: int = 1,
        workers: int | None = None,
        repeat: int = 1,
        predict: str | None = None,
        seed: int | None = None,
        skip_damaged: bool = False,
        splits: Splits | None = None,
        sampling: Sampling | None = None,
        mix: Mix | None = None,
    ):
        super().__init__()
        self.splits = splits or Splits()
        smallest = {"batch_size": 1, "val_batch_size": 1, "repeat": 1, "workers": 0}
        for option, value in zip(smallest, (batch_size, val_batch_size, repeat, workers)):
            if value is not None and value < smallest[option]:
                raise InputError(f"data.{option} is {value}: it must be at least {smallest[option]}")
        self.batch_size, self.val_batch_size, self.repeat = batch_size, val_batch_size, repeat
        self.workers, self.predict, self.seed, self.skip_damaged = workers, predict, seed, skip_damaged
        self.left_out = LeftOut()
        self.unreadable: list[str] = []
        self.sampling, self.mix = sampling, mix
        self._draws: np.ndarray | None = None
        self.train_set: Dataset | None = None
        self.val_set: Dataset | None = None
        # With more processes than validation images a process may have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def device_batch_size(self) -> int:
        """Images per training batch of one device.

        Raises:
            InputError: The global batch does not divide by devices times accumulated batches.
        """
        accumulate = self._accumulate
        parts = self._world_size * accumulate
        if self.batch_size % parts:
            raise InputError(
                f"data.batch_size {self.batch_size} is the global batch and does not divide by {self._world_size} "
                f"devices x {accumulate} accumulated batches (trainer.devices, trainer.accumulate_grad_batches): "
                f"make it a multiple of {parts} or change those"
            )
        return self.batch_size // parts

    def mixed(self, dataset: Dataset, others: Sequence[Dataset], transform: Callable) -> Dataset:
        """The items of ``dataset``, and of the ``others`` of ``mix``, changed by a transform."""
        for other in others:
            other.channels, other.value_range = self.channels, self.value_range
        parts = [Transformed(part, transform) for part in (dataset, *others)]
        return ConcatDataset(parts) if others else parts[0]

    def use_channels(self, number: int) -> None:
        """Read images of as many channels as the backbone takes, ``model.backbone.in_chans``.

        For 1 they are RGB all the same, which the task makes grey. Of other numbers each file has to have them, and
        what changes colours is left out, since it is made for RGB.
        """
        self.channels = 3 if number == 1 else number
        self._tell_datasets()

    def use_range(self, value_range: tuple[float, float] | None) -> None:
        """Read images of more than 8 bits per channel, of which these values become 0 and 255.

        Raises:
            InputError: They are none, or in the wrong order.
        """
        if value_range is not None and not value_range[0] < value_range[1]:
            raise InputError(f"data.value_range is {list(value_range)}: give two numbers, the smaller first")
        self.value_range = tuple(value_range) if value_range else None
        self._tell_datasets()

    def _tell_datasets(self) -> None:
        """Let the data sets read images as this module is to."""
        for data in (getattr(self, "train_data", None), getattr(self, "val_data", None)):
            if data is not None:
                data.channels, data.value_range = self.channels, self.value_range

    @property
    def train_draws(self) -> np.ndarray | None:
        """How often each training sample is drawn in a pass on average, by ``sampling`` and ``mix``; None: once.

        It is found once, by the first process, which tells the others; so all have to ask.
        """
        if self._draws is None and (self.sampling or self.mix):
            draws = None
            if self.sampling and self._rank == 0:
                draws = self.sampling.draws(self.train_set, self.classes)
            if self.sampling and self._world_size > 1:
                draws = self.trainer.strategy.broadcast(draws)
            sizes = [len(part) for part in self.train_set.datasets] if self.mix else []
            self._draws = self.mix.draws(sizes, draws) if self.mix else draws
        return self._draws

    @property
    def epoch_length(self) -> int:
        """Training samples of an epoch."""
        return pass_length(len(self.train_set), self.train_draws) * self.repeat

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of an epoch, from ``setup`` on.

        Raises:
            InputError: ``trainer.limit_train_batches`` would end an epoch in the middle of a step.
        """
        steps = self.epoch_length // self.batch_size
        accumulate, limit = self._accumulate, self.trainer.limit_train_batches if self.trainer else 1.0
        batches = steps * accumulate
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if batches % accumulate:
            raise InputError(
                f"trainer.limit_train_batches {limit} is {batches} batches an epoch, the last of which are no whole "
                f"optimizer step of {accumulate} accumulated batches: make it a multiple of {accumulate}"
            )
        return batches // accumulate

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in random order; what is left of an epoch begins the next one."""
        batch_size = self.device_batch_size
        if self.epoch_length < self.batch_size:
            raise InputError(
                f"an epoch has {self.epoch_length} training images, fewer than a batch of "
                f"{self.batch_size}: make data.batch_size smaller or data.repeat larger"
            )
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        processes = (self._rank, self._world_size)
        sampler = TrainingSampler(
            len(self.train_set),
            self.batch_size,
            *processes,
            seed,
            self.repeat,
            self.train_groups,
            self.epoch_steps,
            self.train_draws,
        )
        if self.trainer:
            sampler.resume(self.trainer.global_step)
        collate_train = WithLeftOut(self.collate_train) if self.skip_damaged else self.collate_train
        if self.skip_damaged:
            self.left_out.begin(self.trainer.log_dir if self.trainer else None)  # which asks all processes
        # A generator of its own, so that a pass takes nothing from that of the training.
        return DataLoader(
            Drawn(self.train_set, self.skip_damaged),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
            **self._options(collate_train),
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note what a batch goes without."""
        if isinstance(batch, dict):
            self.left_out.note(batch.pop("left_out", ()))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """What was left out so far, so that a resumed run lists it too, and what was held out."""
        kept = {"left_out": self.left_out.all(), "division": self.splits.division}
        return {name: value for name, value in kept.items() if value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with that list.

        Raises:
            InputError: The checkpoint was trained on images that are held out now.
        """
        self.splits.refuse_other(state_dict.get("division", {}))
        self.left_out.sentences = dict.fromkeys(state_dict.get("left_out", ()))

    def teardown(self, stage: str) -> None:
        """List what the training went without, of all processes."""
        if stage != "fit" or not self.skip_damaged:
            return
        parts = [self.left_out.all()]
        if self._world_size > 1 and self.trainer.state.status != "interrupted":  # else the others may be gone
            parts = [None] * self._world_size  # of nodes that share no folder, too
            torch.distributed.all_gather_object(parts, self.left_out.all())
        sentences = sorted({sentence for part in parts for sentence in part})
        if sentences and self._rank == 0:
            self.left_out.show(sentences)

    def val_dataloader(self) -> DataLoader:
        """Every validation image once over all devices."""
        return self._evaluation_loader(self.val_set)

    def predict_dataloader(self) -> DataLoader:
        """The images of ``predict``, each once over all devices, without those that cannot be read."""
        readable = Readable(self.predict_data())
        self.unreadable = readable.unreadable
        return self._evaluation_loader(readable, ReadableLoader, OfReadable(self.collate_val))

    def preparation(self) -> dict[str, Any]:
        """What a model that is used elsewhere has to know of these data, as plain data: checkpoints keep it.

        Of all tasks ``palette`` and ``value_range``; of segmentation ``label_values``, of detection ``scale`` and
        ``category_ids``, of classification ``size`` and ``crop``.
        """
        colours = [[int(value) for value in colour] for colour in self.palette]
        return {"palette": colours, "value_range": list(self.value_range) if self.value_range else None}

    def predict_data(self) -> Dataset:
        """The images of ``predict``.

        Raises:
            InputError: None are given, see also :class:`ImageFolder`.
        """
        if self.predict is None:
            raise InputError("prediction needs images: set data.predict to an image or a folder")
        return ImageFolder(self.predict, self.channels, self.value_range)


def run_steps(trainer: L.Trainer) -> float:
    """Optimizer steps of a training run, from its ``setup`` on; infinite if nothing limits it.

    Lightning's estimate makes the training loader, too early for that of a resumed run to know its step.
    """
    if not isinstance(trainer.datamodule, DataModule):
        return trainer.estimated_stepping_batches
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * trainer.datamodule.epoch_steps)
    return min(limits, default=math.inf)
