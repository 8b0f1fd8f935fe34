"""Samplers that are exact under several processes: nothing twice, nothing left out where it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

# An index, and the numbers that its augmentation is drawn from.
Drawing = tuple[int, tuple[int, int]]


class TrainingSampler(Sampler[Drawing]):
    """Each process's share of an endless order of global batches, which depends on the seed alone.

    The order is one random pass after another over the data set, cut into batches of an optimizer step; a batch may
    hold the end of a pass and the begin of the next, so that no sample is left out in the long run and every step has
    equally many. Optimizer step i has batch i, however the run is divided into processes, accumulated batches and
    epochs, and wherever it was stopped in between. What is drawn with an index is its (seed, place in the order).

    With ``groups`` the samples of a batch are of one group, such as wide or high images, in the order in which the
    batches become full; what is left of the groups at the end of a pass goes into mixed ones, at most two a pass beside
    the one between two passes.

    Args:
        length: Number of samples of the data set.
        batch_size: Samples of an optimizer step, over all processes; a multiple of ``world_size``.
        rank: This process.
        world_size: Number of processes.
        seed: The same in all processes.
        repeat: How often an epoch passes the data set, each time in a new order. More than once saves small data sets
            the pause between epochs.
        groups: For each sample the number of its group; None: all are of one.
        epoch_steps: Optimizer steps of an epoch, where it is shorter than ``repeat`` passes; None: it is not.
        draws: How often each sample is drawn in a pass on average, see :class:`Sampling`; None: once. A pass has as
            many draws as their rounded sum; each sample has the next lower or the next higher number of its own.
    """

    def __init__(
        self,
        length: int,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        repeat: int = 1,
        groups: Sequence[int] | None = None,
        epoch_steps: int | None = None,
        draws: np.ndarray | None = None,
    ):
        self.length, self.batch_size, self.rank, self.world_size = length, batch_size, rank, world_size
        self.seed, self.repeat = seed, repeat
        self.groups = None if groups is None else np.asarray(groups)
        self.draws = draws
        self.samples = pass_length(length, draws) * repeat  # of a pass
        self.epoch_steps = self.samples // batch_size if epoch_steps is None else epoch_steps
        self.first = 0  # optimizer step that the next iteration begins with
        self.resumed: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first step of this epoch."""
        self.first = epoch * self.epoch_steps

    def resume(self, step: int) -> None:
        """Let the next iteration, and only that, begin with this optimizer step and end with its epoch."""
        self.resumed = step

    def __len__(self) -> int:
        return self.samples // self.batch_size * self.batch_size // self.world_size  # Lightning limits it by itself

    def __iter__(self) -> Iterator[Drawing]:
        # Lightning starts the first iteration of a resumed run before it sets the epoch.
        first, self.resumed = self.first if self.resumed is None else self.resumed, None
        last = first - first % self.epoch_steps + self.epoch_steps
        step = first
        while step < last:
            number = ((step + 1) * self.batch_size - 1) // self.samples
            begin, batches = number * self.samples // self.batch_size, self.batches(number)
            for batch in batches[step - begin : last - begin]:
                place = step * self.batch_size + self.rank
                for index in batch[self.rank :: self.world_size].tolist():
                    yield index, (self.seed, place)
                    place += self.world_size
                step += 1

    def batches(self, number: int) -> np.ndarray:
        """The global batches that become full in pass ``number``, (steps, batch_size)."""
        order, taken = self._order(number), self._taken(number)
        begun = order[:0]
        if taken:
            before = self._arranged(number - 1)
            begun = np.concatenate((before[len(before) + taken - self.batch_size :], order[:taken]))
        arranged = np.concatenate((begun, self._grouped(order[taken:])))
        full = len(arranged) // self.batch_size
        return arranged[: full * self.batch_size].reshape(full, self.batch_size)

    def _order(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return np.concatenate([self._pass(generator) for _ in range(self.repeat)])

    def _pass(self, generator: torch.Generator) -> np.ndarray:
        order = torch.randperm(self.length, generator=generator).numpy()
        if self.draws is None:
            return order
        # Marks at equal distances along the samples, which lie one after the other, as long as they are often drawn.
        ends = self.draws[order].cumsum()
        number = pass_length(self.length, self.draws)
        marks = (np.arange(number) + torch.rand((), generator=generator).item()) * (ends[-1] / number)
        drawn = order[np.searchsorted(ends, marks, side="right").clip(max=self.length - 1)]
        return drawn[torch.randperm(number, generator=generator).numpy()]

    def _taken(self, number: int) -> int:
        """How many samples of a pass complete the batch that the pass before has begun."""
        return -number * self.samples % self.batch_size

    def _arranged(self, number: int) -> np.ndarray:
        return self._grouped(self._order(number)[self._taken(number) :])

    def _grouped(self, order: np.ndarray) -> np.ndarray:
        """Full batches of one group, in the order in which they become full, and then all else."""
        if self.groups is None:
            return order
        full, rest = [], []
        for group in np.unique(self.groups):
            places = (self.groups[order] == group).nonzero()[0]
            whole = len(places) - len(places) % self.batch_size
            full.append(places[:whole].reshape(-1, self.batch_size))
            rest.append(places[whole:])
        batches = np.concatenate(full)
        batches = batches[batches[:, -1].argsort()]
        return order[np.concatenate((batches.ravel(), np.sort(np.concatenate(rest))))]


def pass_length(length: int, draws: np.ndarray | None) -> int:
    """Draws of a pass over so many samples, see :class:`TrainingSampler`."""
    return length if draws is None else round(float(draws.sum()))


class EvaluationSampler(Sampler[int]):
    """Every index exactly once over all processes, in order, without padding.

    PyTorch's DistributedSampler repeats samples until all processes have equally many, which changes every metric.

    Args:
        length: Number of samples of the data set.
        rank: This process gets the indices ``rank``, ``rank + world_size`` and so on.
        world_size: Number of processes.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1):
        self.indices = range(rank, length, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
