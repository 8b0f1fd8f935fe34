"""Sparse weights: how many of each tensor are kept, which ones are dropped, and which ones come back.

Pure functions on tensors, used by :class:`lk_downstream.callbacks.DynamicSparsity`. A mask is a bool tensor of the
shape of its weight; what is False is zero. The choices are those of SLaK (Liu et al., "More ConvNets in the 2020s",
ICLR 2023; sparse_core.py and funcs.py of the authors' repository), which stands on the works named at each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lk_downstream.errors import InputError

Gradients = Callable[[], Mapping[str, Tensor]]


def uniform_densities(weights: Mapping[str, Tensor], density: float, gradients: Gradients) -> dict[str, float]:
    """The same share of every tensor.

    Args:
        weights: Tensors by name; only their names count.
        density: Share of the weights that is kept, 0 to 1.
        gradients: Not needed.

    Returns:
        The share that is kept of each tensor.
    """
    return dict.fromkeys(weights, density)


def erk_densities(weights: Mapping[str, Tensor], density: float, gradients: Gradients) -> dict[str, float]:
    """Erdos-Renyi-Kernel: shares in proportion to the sum of a tensor's sizes over their product, none above 1.

    Small tensors are kept denser than large ones. From RigL (Evci et al., "Rigging the Lottery", ICML 2020, section 3),
    after SET (Mocanu et al., Nature Communications 2018) for matrices.

    Args:
        weights: Tensors by name; only their shapes count, so they may lie on the meta device.
        density: Share of all weights together that is kept, 0 to 1.
        gradients: Not needed.

    Returns:
        The share that is kept of each tensor.
    """
    sizes = {name: weight.numel() for name, weight in weights.items()}
    raw = {name: sum(weight.shape) / weight.numel() for name, weight in weights.items()}
    total, dense = sum(sizes.values()), set()
    while len(dense) < len(sizes):
        left = density * total - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in sizes.keys() - dense)
        full = {name for name in sizes.keys() - dense if scale * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else scale * raw[name] for name in sizes}
        dense |= full  # what they leave over goes to the others
    return dict.fromkeys(sizes, 1.0)


def snip_densities(weights: Mapping[str, Tensor], density: float, gradients: Gradients) -> dict[str, float]:
    """Shares of the weights with the largest |weight x gradient|, by one threshold for all tensors.

    The score is that of SNIP (Lee et al., ICLR 2019), of which SLaK takes only how much of each tensor is kept, not
    which weights.

    Args:
        weights: Tensors by name.
        density: Share of all weights together that is kept, 0 to 1.
        gradients: Gives the gradient of the training loss for each name.

    Returns:
        The share of each tensor that lies strictly above the threshold, which is the ``int(density * total)``-th
        largest score; ``density`` of a tensor without any gradient, of which nothing is known.

    Raises:
        InputError: Gradients are not finite.
    """
    found = gradients()
    scores = {name: (weight.detach() * found[name]).abs().float() for name, weight in weights.items()}
    known = {name: score for name, score in scores.items() if score.any()}
    if not known:
        return dict.fromkeys(weights, density)
    together = torch.cat([score.flatten() for score in known.values()])
    if not together.isfinite().all():
        raise InputError("SNIP needs finite gradients, which the first batches do not give: take init: erk")
    kept = max(int(together.numel() * density), 1)
    threshold = together.sort().values[together.numel() - kept]  # kthvalue is not repeatable on every GPU
    above = {name: int((score > threshold).sum()) / score.numel() for name, score in known.items()}
    return {name: above.get(name, density) for name in weights}


DENSITIES = {"uniform": uniform_densities, "erk": erk_densities, "snip": snip_densities}


def random_mask(weight: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep ``density`` of a tensor at random places, exactly to one weight, and at least one weight.

    Args:
        weight: Gives shape and device.
        density: Share that is kept, 0 to 1.
        generator: On the CPU, so that the places do not depend on the device.

    Returns:
        bool, of the shape of ``weight``.
    """
    kept = max(round(density * weight.numel()), 1)
    nothing = torch.zeros(weight.shape, dtype=torch.bool)
    return grow(nothing, torch.rand(weight.shape, generator=generator), kept).to(weight.device)


def cosine_rate(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps``."""
    return end + (start - end) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def prune(weight: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Drop the smallest weights by magnitude.

    Args:
        weight: Any shape.
        mask: bool, of that shape.
        rate: Share of the weights in the mask that is dropped, rounded up to whole weights.

    Returns:
        A new mask with ``ceil(rate * mask.sum())`` weights fewer.
    """
    number = math.ceil(rate * int(mask.sum()))
    dropped = weight.detach().abs().masked_fill(~mask, torch.inf).flatten().topk(number, largest=False).indices
    return mask.flatten().index_fill(0, dropped, False).view(mask.shape)


def grow(mask: Tensor, scores: Tensor, number: int) -> Tensor:
    """Add the ``number`` weights of the highest score that are not in the mask.

    Args:
        mask: bool, any shape.
        scores: Of that shape.
        number: At most the number of weights that are not in the mask.

    Returns:
        A new mask with ``number`` weights more.
    """
    added = scores.masked_fill(mask, -torch.inf).flatten().topk(number).indices
    return mask.flatten().index_fill(0, added, True).view(mask.shape)


def random_scores(weight: Tensor, state: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Any place is as good as another: SET (Mocanu et al., 2018), and ITOP (Liu et al., ICML 2021), SLaK's choice."""
    return torch.rand(weight.shape, generator=generator).to(weight.device)


def gradient_scores(weight: Tensor, state: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Where the loss would fall fastest: the magnitude of the gradient, as in RigL (Evci et al., 2020)."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()


def momentum_scores(weight: Tensor, state: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """The magnitude of the optimizer's next move: Sparse Momentum (Dettmers and Zettlemoyer, 2019), for Adam too.

    Raises:
        InputError: The optimizer keeps no momentum.
    """
    if "exp_avg_sq" in state:
        return (state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)).abs()
    if state.get("momentum_buffer") is None:
        raise InputError("growth by momentum needs an optimizer with momentum: take AdamW, or growth: gradient")
    return state["momentum_buffer"].abs()


GROWTH = {"random": random_scores, "gradient": gradient_scores, "momentum": momentum_scores}
