"""What the loaders of all data modules have in common: processes, workers, and each evaluation image once."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from lk_downstream import machine
from lk_downstream.data.batches import Collate, InSharedMemory, collate, collate_evaluation
from lk_downstream.data.samplers import EvaluationSampler
from lk_downstream.stopping import end_loaders_at_exit, leave_to_parent


class Loaders(L.LightningDataModule):
    """The base of :class:`DataModule`, which sets ``workers`` and ``val_batch_size``.

    Attributes:
        collate_train: Makes a training batch of samples.
        collate_val: Makes a validation or prediction batch of samples.
    """

    workers: int | None
    val_batch_size: int
    # Functions rather than methods: a loader process that is spawned gets them without the module and its Trainer.
    collate_train: Collate = staticmethod(collate)
    collate_val: Collate = staticmethod(collate_evaluation)

    def _evaluation_loader(
        self, dataset: Dataset, kind: type[DataLoader] = DataLoader, collate_fn: Collate | None = None
    ) -> DataLoader:
        sampler = EvaluationSampler(len(dataset), self._rank, self._world_size)
        options = self._options(collate_fn or self.collate_val)
        return kind(dataset, batch_size=self.val_batch_size, sampler=sampler, **options)

    def _options(self, collate_fn: Collate) -> dict[str, Any]:
        workers = self._default_workers() if self.workers is None else self.workers
        if workers:
            end_loaders_at_exit()
        return {
            "collate_fn": InSharedMemory(collate_fn),
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "worker_init_fn": leave_to_parent,
            "pin_memory": torch.cuda.is_available(),
        }

    def _default_workers(self) -> int:
        local = self.trainer.num_devices if self.trainer else 1
        return max(1, min(8, machine.cores() // local - 1))

    @property
    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1
