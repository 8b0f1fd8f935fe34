"""Training without the files that cannot be read, and the list of them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lk_downstream.data.batches import Collate
from lk_downstream.errors import DamagedFile, InputError

MOST_DAMAGED = 10  # images drawn in a row: then there is more wrong than single files


class Drawn(Dataset):
    """A data set whose items are augmented by random numbers of their draw alone, see :class:`TrainingSampler`.

    All generators of the process are seeded: those of Python, NumPy and PyTorch on the CPU.

    Args:
        dataset: Gives the items.
        skip_damaged: Whether another item, which the draw alone decides, takes the place of one that cannot be read. It
            then has ``left_out``, a sentence for each item that could not.
    """

    def __init__(self, dataset: Dataset, skip_damaged: bool = False):
        self.dataset, self.skip_damaged = dataset, skip_damaged

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, Sequence[int]] | int) -> dict[str, Any]:
        if isinstance(item, int):  # with overfit_batches Lightning puts a sampler of its own in the place of ours
            return self.dataset[item]
        index, draw = item
        left_out: list[str] = []
        while len(left_out) < MOST_DAMAGED:
            seeds = np.random.SeedSequence((*draw, len(left_out)) if left_out else draw).generate_state(4).tolist()
            random.seed(seeds[0])
            np.random.seed(seeds[1])
            torch.default_generator.manual_seed(seeds[2])
            try:
                sample = self.dataset[index]
            except DamagedFile as error:
                if not self.skip_damaged:
                    raise
                left_out.append(str(error))
                index = seeds[3] % len(self.dataset)
            else:
                return {**sample, "left_out": left_out} if left_out else sample
        raise InputError(f"{MOST_DAMAGED} images drawn in a row are damaged; the last: {left_out[-1]}")


class WithLeftOut:
    """Makes batches as another function does, with ``left_out`` of all samples where there is any."""

    def __init__(self, collate_fn: Collate):
        self.collate_fn = collate_fn

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of the samples."""
        left_out = [sentence for sample in samples for sentence in sample.pop("left_out", ())]
        batch = self.collate_fn(samples)
        return {**batch, "left_out": left_out} if left_out else batch


class LeftOut:
    """What a training goes without: a sentence for each file, in ``left_out.txt`` of the run's folder as soon as it is
    met, so that a run that is killed has them too, of all processes.

    Attributes:
        sentences: Those that this process knows, in their order.
    """

    def __init__(self) -> None:
        self.sentences: dict[str, None] = {}
        self.path: Path | None = None

    def begin(self, folder: str | None) -> None:
        """Go on in the folder of a run; None: no file is written."""
        self.path = Path(folder) / "left_out.txt" if folder else None

    def note(self, sentences: Sequence[str]) -> None:
        """Say what is new at once."""
        for sentence in sentences:
            if sentence not in self.sentences:
                warnings.warn(f"left out: {sentence}", stacklevel=2)
                self.sentences[sentence] = None
                if self.path:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with self.path.open("ab", buffering=0) as file:  # a whole line, whoever else writes
                        file.write(f"{sentence}\n".encode())

    def all(self) -> list[str]:
        """Those of all processes that share the folder."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path and self.path.is_file() else []
        return sorted({*self.sentences, *lines})

    def show(self, sentences: Sequence[str]) -> None:
        """List them when the training is over, on the first process."""
        print(f"trained without {len(sentences)} damaged files:", *sentences[:20], sep="\n  ")
        if self.path and self.path.parent.is_dir():
            self.path.write_text("\n".join(sentences) + "\n", encoding="utf-8")
            print(f"all of them: {self.path}")
