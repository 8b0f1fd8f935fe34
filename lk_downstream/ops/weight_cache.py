"""What depends on a weight alone, such as its spectrum, is computed once while the weight stays as it is."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class WeightCache:
    """Tensors computed from CPU weights, the least recently used dropped beyond a number of bytes.

    An entry belongs to a tensor object and goes with it. It holds as long as the tensor's address, version counter
    and fingerprint do: assignments through ``weight.data`` leave the version as it is, so the values are looked at
    too, by one product with fixed random numbers. A change that this does not see is below the rounding error of
    the convolution.

    Threads may share it, and change weights while others compute: what was made while its weight changed is not kept.
    """

    def __init__(self, budget: int = 2**28):
        self.budget = budget
        self.hits = 0
        self._entries: OrderedDict[Hashable, tuple[weakref.ref, Hashable, Tensor]] = OrderedDict()
        self._bytes = 0
        self._probes: dict[tuple[int, torch.dtype], Tensor] = {}
        self._lock = threading.Lock()
        self._dead: deque[tuple[Hashable, weakref.ref]] = deque()

    def get(self, weight: Tensor, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, or what it gave before for this ``name`` and an unchanged ``weight``."""
        if weight.device.type != "cpu" or torch.compiler.is_compiling():
            return make()
        key, state = (id(weight), name), self._state(weight)
        with self._lock:
            entry = self._entries.get(key)
            found = entry is not None and entry[0]() is weight and entry[1] == state
            if found:
                self.hits += 1
                self._entries.move_to_end(key)
        self._drop_dead()
        if found:
            return entry[2]
        made = make()
        if made.nbytes <= self.budget and self._state(weight) == state:
            reference = weakref.ref(weight, lambda reference: self._bury(key, reference))
            with self._lock:
                self._remove(key)
                self._entries[key] = (reference, state, made)
                self._bytes += made.nbytes
                while self._bytes > self.budget:
                    self._remove(next(iter(self._entries)))
            self._drop_dead()
        return made

    def renew_lock(self) -> None:
        """For a forked process, in which the thread that held the lock may be missing."""
        self._lock = threading.Lock()
        self._bytes = sum(made.nbytes for _, _, made in self._entries.values())

    def _state(self, weight: Tensor) -> Hashable:
        return weight.data_ptr(), weight._version if not weight.is_inference() else 0, self._fingerprint(weight)

    def _bury(self, key: Hashable, reference: weakref.ref) -> None:
        """Called when a weight is gone: at any moment, perhaps by the very thread that holds the lock."""
        self._dead.append((key, reference))
        self._drop_dead()

    def _drop_dead(self) -> None:
        """Drop the entries of weights that are gone, unless the lock is taken: its holder comes here afterwards."""
        while self._dead and self._lock.acquire(blocking=False):
            try:
                while self._dead:
                    key, reference = self._dead.popleft()
                    entry = self._entries.get(key)
                    if entry is not None and entry[0] is reference:  # not that of a later weight at the same address
                        self._remove(key)
            finally:
                self._lock.release()

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[2].nbytes

    def _fingerprint(self, weight: Tensor) -> float:
        kind = (weight.numel(), weight.dtype)
        probe = self._probes.get(kind)
        if probe is None:
            if len(self._probes) > 64:
                self._probes.clear()
            generator = torch.Generator().manual_seed(0)
            wide = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
            probe = self._probes[kind] = torch.randn(weight.numel(), generator=generator, dtype=wide)
        return torch.dot(weight.detach().reshape(-1).to(probe.dtype), probe).item()


WEIGHT_CACHE = WeightCache()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WEIGHT_CACHE.renew_lock)
