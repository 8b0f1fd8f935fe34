"""Most memory that tensors hold at once while something runs, counted tensor by tensor on any device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Inside this context, counts the storages that operators return, from then until nothing refers to them.

    What an operator holds inside of itself (a workspace of oneDNN, spectra of an FFT) is not seen. On GPUs the
    allocator knows better, see :func:`torch.cuda.max_memory_allocated`.

    Attributes:
        peak: bytes, the largest sum so far.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # What is given is no result, though an operator may hand it on: a view, or one that works in place.
        given = {self._key(item) for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor) and self._key(item) not in given | self._seen:
                self._hold(item)
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _hold(self, tensor: torch.Tensor) -> None:
        storage, key = tensor.untyped_storage(), self._key(tensor)
        self._seen.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size
