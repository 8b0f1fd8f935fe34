"""Batches of images of any sizes with boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

DIVISOR = 32  # of the sides of a batch: the largest stride of the backbones


class Target:
    """What is known of an image, by name, as in a dict; its tensors move together and keep their types.

    With ``precision: bf16-true`` Lightning casts every tensor that it finds in the lists and dicts of a batch. A box in
    pixels does not bear that: the numbers next to 1000 are 996 and 1004 in bfloat16.
    """

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._values.keys()

    def to(self, *args: Any, **options: Any) -> Target:
        """The target on another device."""
        return self._each(lambda value: value.to(*args, **options))

    def pin_memory(self) -> Target:
        """The target in memory from which a GPU copies while the host goes on."""
        return self._each(lambda value: value.pin_memory())

    def share_memory_(self) -> Target:
        """The target in memory that a loader process shares with the training."""
        return self._each(lambda value: value.share_memory_())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Target:
        return Target({k: change(value) if isinstance(value, Tensor) else value for k, value in self._values.items()})


def collate_detection(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of images of any sizes, padded at the bottom and on the right to a common multiple of 32.

    Returns:
        ``image`` uint8 (N, 3, H, W), ``size`` int64 (N, 2) without padding, ``target``: list of :class:`Target` whose
        masks keep their own size, ``name``: list.
    """
    sizes = [tuple(sample["image"].shape[-2:]) for sample in samples]
    height, width = (-(-max(sides) // DIVISOR) * DIVISOR for sides in zip(*sizes))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for image, sample, (h, w) in zip(images, samples, sizes):
        image[:, :h, :w] = sample["image"]
    plain = [
        Target({k: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for k, value in target.items()})
        for target in (sample["target"] for sample in samples)
    ]
    return {
        "image": images,
        "size": torch.tensor(sizes),
        "target": plain,
        "name": [sample["name"] for sample in samples],
    }
