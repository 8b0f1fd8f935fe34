"""The inference form of a large-kernel model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lk_downstream.backbones.blocks import ReparamLargeKernelConv


def reparameterize(model: nn.Module, dense: bool = False) -> nn.Module:
    """A copy of ``model`` in eval mode with the branches and batch norms of its large kernels merged.

    RepLKNet's large and small kernels become one convolution each (as in the authors' published parameter counts),
    SLaK's three branches two rectangular ones. Every merged module is compared with its original in float64 on random
    input. Models without such modules come back as plain copies. ``timm.utils.reparameterize_model`` does the same
    without the check, and also fuses what timm's own models offer.

    Args:
        model: any module that contains RepLKNet or SLaK blocks, also after conversion to synchronised batch norm.
        dense: merge SLaK's rectangles into one dense kernel too; see ``ReparamLargeKernelConv.reparameterize``.

    Raises:
        RuntimeError: a merged module differs from its original by more than 1e-8 of its largest output.
    """
    merged = copy.deepcopy(model).eval()
    for name, module in merged.named_modules():
        if isinstance(module, ReparamLargeKernelConv):
            weight = next(module.parameters())
            reference = copy.deepcopy(module).to("cpu" if not weight.is_meta else "meta", torch.float64)
            candidate = copy.deepcopy(reference)
            candidate.reparameterize(dense)
            if not weight.is_meta:
                _check(name, reference, candidate)
            module.reparameterize(dense)
    return merged


@torch.no_grad()
def _check(name: str, reference: nn.Module, candidate: nn.Module) -> None:
    weight = next(parameter for parameter in candidate.parameters() if parameter.ndim == 4)
    side = max(weight.shape[2:]) // 2 + 1  # every weight of the kernel touches the output
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, weight.shape[0], side, side, generator=generator, dtype=torch.float64)
    expected: Tensor = reference(x)
    error, limit = (candidate(x) - expected).abs().max().item(), 1e-8 * expected.abs().max().item()
    if not error <= limit:
        raise RuntimeError(f"the merged form of {name or 'the model'} is off by {error:.1e}, more than {limit:.1e}")
