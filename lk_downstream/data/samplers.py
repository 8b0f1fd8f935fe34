"""Samplers that are exact under several processes: nothing twice, nothing left out where it counts."""

from __future__ import annotations

from collections.abc import Iterator

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
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1, seed: int = 0, repeat: int = 1):
        self.length, self.rank, self.world_size, self.seed, self.repeat = length, rank, world_size, seed, repeat
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length * self.repeat // self.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.cat([torch.randperm(self.length, generator=generator) for _ in range(self.repeat)])
        yield from order[self.rank : len(self) * self.world_size : self.world_size].tolist()


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
