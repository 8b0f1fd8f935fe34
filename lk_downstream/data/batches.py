"""Batches made of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from lk_downstream.errors import InputError

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: tensors stacked, everything else in a list.

    Raises:
        InputError: The images differ in size.
    """
    shapes = {tuple(sample["image"].shape[-2:]): sample["name"] for sample in samples}
    if len(shapes) > 1:
        (one, name), (other, other_name) = list(shapes.items())[:2]
        raise InputError(
            f"{name} is {one[1]} x {one[0]} and {other_name} is {other[1]} x {other[0]}: "
            "images of different sizes cannot share a batch, set data.val_batch_size to 1"
        )
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack([value.as_subclass(torch.Tensor).contiguous() for value in values])
        else:
            batch[key] = values
    return batch


def collate_evaluation(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of images at their own size, with ``size`` (N, 2), their height and width.

    Raises:
        InputError: The images differ in size.
    """
    return collate([{**sample, "size": torch.tensor(sample["image"].shape[-2:])} for sample in samples])


class InSharedMemory:
    """Makes batches as another function does, in a loader process at once where the training process can see them.

    PyTorch does that in a thread which, where the shared memory is too small, loses the batch, so that the training
    waits for it for ever.
    """

    def __init__(self, collate_fn: Collate):
        self.collate_fn = collate_fn

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of the samples."""
        batch = self.collate_fn(samples)
        if get_worker_info() is not None:
            _share(batch)
        return batch


def _share(value: Any) -> None:
    if hasattr(value, "share_memory_"):  # a tensor, or what holds tensors
        value.share_memory_()
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            _share(part)


class Transformed(Dataset):
    """A data set whose items pass through a transform."""

    def __init__(self, dataset: Dataset, transform: Callable[[dict[str, Any]], dict[str, Any]]):
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.transform(self.dataset[index])
