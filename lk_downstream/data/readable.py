"""Images to predict on, of which some may not be readable: the others go on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lk_downstream.errors import InputError

UNREADABLE = "unreadable"


class Readable(Dataset):
    """A data set that has a sentence under ``unreadable`` in the place of an image that cannot be read.

    Attributes:
        unreadable: The sentences so far, from :class:`ReadableLoader`.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.unreadable: list[str] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except InputError as error:
            return {UNREADABLE: str(error)}


class OfReadable:
    """Makes a batch of what could be read as another function does; without any it has no image."""

    def __init__(self, collate_fn: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate_fn = collate_fn

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of the samples."""
        read = [sample for sample in samples if UNREADABLE not in sample]
        batch = self.collate_fn(read) if read else {}
        return {**batch, UNREADABLE: [sample[UNREADABLE] for sample in samples if UNREADABLE in sample]}


class ReadableLoader(DataLoader):
    """Gives the batches that have an image, and names what could not be read at once."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            for sentence in batch.pop(UNREADABLE):
                warnings.warn(f"left out: {sentence}", stacklevel=2)
                self.dataset.unreadable.append(sentence)
            if batch:
                yield batch
