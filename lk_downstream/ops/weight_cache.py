"""What depends on a weight alone, such as its spectrum, is computed once while the weight stays as it is."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class WeightCache:
    """Tensors computed from CPU weights, the least recently used dropped beyond a number of bytes.

    An entry belongs to a tensor object and goes with it. It holds as long as the tensor's address, version counter
    and fingerprint do: assignments through ``weight.data`` leave the version as it is, so the values are looked at
    too, by one product with fixed random numbers. A change that this does not see is below the rounding error of
    the convolution.
    """

    def __init__(self, budget: int = 2**28):
        self.budget = budget
        self.hits = 0
        self._entries: OrderedDict[Hashable, tuple[weakref.ref, Hashable, Tensor]] = OrderedDict()
        self._bytes = 0
        self._probes: dict[tuple[int, torch.dtype], Tensor] = {}

    def get(self, weight: Tensor, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """``make()``, or what it gave before for this ``name`` and an unchanged ``weight``."""
        if weight.device.type != "cpu" or torch.compiler.is_compiling():
            return make()
        key = (id(weight), name)
        state = (weight.data_ptr(), weight._version if not weight.is_inference() else 0, self._fingerprint(weight))
        entry = self._entries.get(key)
        if entry is not None and entry[0]() is weight and entry[1] == state:
            self.hits += 1
            self._entries.move_to_end(key)
            return entry[2]
        self._drop(key)
        made = make()
        if made.nbytes <= self.budget:
            self._entries[key] = (weakref.ref(weight, lambda _: self._drop(key)), state, made)
            self._bytes += made.nbytes
            while self._bytes > self.budget:
                self._drop(next(iter(self._entries)))
        return made

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[2].nbytes

    def _fingerprint(self, weight: Tensor) -> float:
        kind = (weight.numel(), weight.dtype)
        if kind not in self._probes:
            if len(self._probes) > 64:
                self._probes.clear()
            generator = torch.Generator().manual_seed(0)
            wide = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
            self._probes[kind] = torch.randn(weight.numel(), generator=generator, dtype=wide)
        return torch.dot(weight.detach().reshape(-1).to(self._probes[kind].dtype), self._probes[kind]).item()


WEIGHT_CACHE = WeightCache()
