"""Samplers that are exact under several processes: nothing twice, nothing left out where it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class TrainingSampler(Sampler[int]):
    """Each process's share of a random order that depends on the seed and the epoch alone.

    Within an epoch no index is repeated (more often than ``repeat`` times), and every process gets equally many: up to
    ``world_size - 1`` indices at the end of the order are left out, different ones in every epoch. Lightning calls
    ``set_epoch`` before every epoch, so that a resumed run continues with the order it would have had.

    Args:
        length: Number of samples of the data set.
        rank: This process.
        world_size: Number of processes.
        seed: The same in all processes.
        repeat: How often an epoch passes the data set, each time in a new order. More than once saves small data sets
            the pause between epochs.
        multiple: Each process gets a multiple of this number, such as its pictures of an optimizer step.
    """

    def __init__(
        self, length: int, rank: int = 0, world_size: int = 1, seed: int = 0, repeat: int = 1, multiple: int = 1
    ):
        self.length, self.rank, self.world_size, self.seed, self.repeat = length, rank, world_size, seed, repeat
        self.multiple = multiple
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        share = self.length * self.repeat // self.world_size
        return share - share % self.multiple if share >= self.multiple else share

    def __iter__(self) -> Iterator[int]:
        yield from self.order()[self.rank : len(self) * self.world_size : self.world_size]

    def order(self) -> list[int]:
        """The order of this epoch, of all processes together."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.cat([torch.randperm(self.length, generator=generator) for _ in range(self.repeat)]).tolist()


class GroupedSampler(TrainingSampler):
    """As :class:`TrainingSampler`, but the samples of a batch are all of one group, such as wide or high pictures.

    The order consists of global batches, each of one group, in the order in which they become full; what is left of the
    groups goes into the last ones, mixed. Cut into pieces of ``batch_size`` it gives each process its part of them, so
    that at the same step all processes have the same group.

    Args:
        groups: For each sample whether it is of the one group or of the other.
        batch_size: Samples in a batch of one process.
        rank: This process.
        world_size: Number of processes.
        seed: The same in all processes.
        repeat: How often an epoch passes the data set.
    """

    def __init__(
        self,
        groups: Sequence[bool],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        repeat: int = 1,
    ):
        super().__init__(len(groups), rank, world_size, seed, repeat)
        self.groups, self.batch_size = groups, batch_size

    def __len__(self) -> int:
        return self.length * self.repeat // (self.batch_size * self.world_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        whole = self.batch_size * self.world_size
        waiting: dict[bool, list[int]] = {False: [], True: []}
        batches: list[int] = []
        for index in self.order():
            group = waiting[bool(self.groups[index])]
            group.append(index)
            if len(group) == whole:
                batches += group
                group.clear()
        batches += waiting[False] + waiting[True]
        for start in range(0, len(self) * self.world_size, whole):
            yield from batches[start + self.rank : start + whole : self.world_size]


class DrawSampler(Sampler[tuple[int, tuple[int, int, int]]]):
    """The indices of a training sampler, each with what its augmentation is drawn from, from any place of an epoch on.

    A draw is (seed, epoch, place in the order of all processes): it depends neither on the number of loader processes
    nor on whether the run was stopped in between.

    Args:
        sampler: Gives the indices of this process.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, sampler: TrainingSampler, rank: int = 0, world_size: int = 1):
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        self.resumed: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.sampler.set_epoch(epoch)

    def resume(self, epoch: int, first: int) -> None:
        """Let the next pass be of this epoch, without so many of its first indices."""
        self.resumed = epoch, first

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        # Lightning starts the first pass of a resumed run before it sets the epoch.
        epoch, first = self.resumed or (self.sampler.epoch, 0)
        self.resumed = None
        self.sampler.set_epoch(epoch)
        seed = self.sampler.seed
        for place, index in enumerate(self.sampler):
            if place >= first:
                yield index, (seed, epoch, place * self.world_size + self.rank)


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
