"""What is in the large kernels of a network: how far from their centre their weights lie, and where they are zero."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lk_downstream.backbones.blocks import ReparamLargeKernelConv
from lk_downstream.errors import InputError

LEAST = 5  # side of the smallest kernel that is looked at
INNER = (3, 7, 13)


@dataclass(frozen=True)
class Kernel:
    """A depthwise kernel of K x K, or of several blocks of a stage together.

    Attributes:
        model: name, as given.
        stage: number of the stage, from 0.
        name: of the module; of several blocks those of the first and the last.
        magnitude: float64 (K, K), mean absolute weight over the channels, with all branches and their norms merged.
        nonzero: float64 (K, K), share of the channels whose weight there is not zero.
        density: share of the weights of the branches that are not zero. What decomposition leaves out is no weight.
        outside: share of the absolute weights that lies outside of the centred k x k, by k.
    """

    model: str
    stage: int
    name: str
    magnitude: np.ndarray
    nonzero: np.ndarray
    density: float
    outside: dict[int, float]


def kernels_of(name: str, model: nn.Module, inner: Sequence[int] = INNER, least: int = LEAST) -> list[Kernel]:
    """All depthwise kernels of a network, in their order.

    Args:
        name: to show.
        model: any network; RepLKNet's and SLaK's kernels are taken with their branches, merged or not.
        inner: the sides k of :attr:`Kernel.outside`, odd.
        least: side of the smallest kernel to take.

    Raises:
        InputError: there is none, or a side is not odd.
    """
    if even := [side for side in inner if side % 2 == 0 or side < 1]:
        raise InputError(f"kernels: the inner sides are odd numbers, not {even[0]}, which has no centre")
    found = []
    for path, dense, weights in _depthwise(model):
        if min(dense.shape[-2:]) >= least:
            stage = re.search(r"(\d+)\.(?:blocks\.)?\d+\.", path)  # of a block within it; isotropic networks have none
            magnitude = dense.abs().double().mean(0).numpy()
            nonzero = (dense != 0).double().mean(0).numpy()
            density = sum(int(weight.count_nonzero()) for weight in weights) / sum(w.numel() for w in weights)
            outside = {side: _outside(magnitude, side) for side in inner}
            found.append(Kernel(name, int(stage[1]) if stage else 0, path, magnitude, nonzero, density, outside))
    if not found:
        raise InputError(f"{name} has no depthwise kernels of {least} x {least} or more: give another model or --least")
    return found


def by_stage(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The mean of the kernels of each stage that have one size."""
    groups: dict[tuple[str, int, tuple[int, ...]], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((kernel.model, kernel.stage, kernel.magnitude.shape), []).append(kernel)
    means = []
    for (model, stage, _), group in groups.items():
        magnitude = np.mean([kernel.magnitude for kernel in group], 0)
        nonzero = np.mean([kernel.nonzero for kernel in group], 0)
        density = float(np.mean([kernel.density for kernel in group]))
        outside = {side: float(np.mean([kernel.outside[side] for kernel in group])) for side in group[0].outside}
        names = group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}"
        means.append(Kernel(model, stage, names, magnitude, nonzero, density, outside))
    return means


def _outside(magnitude: np.ndarray, side: int) -> float:
    top, left = ((size - side) // 2 for size in magnitude.shape)
    if min(top, left) < 0:
        return 0.0
    total = magnitude.sum()
    return float(1 - magnitude[top : top + side, left : left + side].sum() / total) if total else 0.0


@torch.no_grad()
def _depthwise(model: nn.Module) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """Name, dense kernel (C, K, K) and weights of the branches of each depthwise convolution of stride 1."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, ReparamLargeKernelConv):
            inside.update(module.modules())
            branches = [part.weight.cpu() for part in module.modules() if isinstance(part, nn.Conv2d)]
            merged = copy.deepcopy(module).cpu().float().eval()
            merged.reparameterize(dense=True)
            yield name, _sum([part.weight for part in merged.modules() if isinstance(part, nn.Conv2d)]), branches
        elif module not in inside and _is_depthwise(module):
            yield name, _sum([module.weight.cpu().float()]), [module.weight.cpu()]


def _is_depthwise(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.stride != (1, 1):
        return False
    return 1 < module.groups == module.in_channels == module.out_channels


def _sum(weights: list[Tensor]) -> Tensor:
    """Kernels (C, 1, h, w) of odd sides, which lie on one centre, as one (C, H, W)."""
    height, width = (max(weight.shape[axis] for weight in weights) for axis in (2, 3))
    total = torch.zeros(len(weights[0]), height, width)
    for weight in weights:
        beside, above = (width - weight.shape[3]) // 2, (height - weight.shape[2]) // 2
        total += F.pad(weight, (beside, beside, above, above))[:, 0]
    return total
