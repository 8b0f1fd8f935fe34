"""The inference form of a large-kernel model."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn

from lk_downstream.backbones.blocks import ReparamLargeKernelConv, fuse_sequence, is_conv_bn
from lk_downstream.ops.choice import seconds

ROUNDS = 5  # timings of each form, the smallest of which counts


def reparameterize(
    model: nn.Module, dense: bool = False, deep: bool = False, example: Tensor | None = None
) -> nn.Module:
    """A copy of ``model`` in eval mode with the branches and batch norms of its large kernels merged.

    RepLKNet's large and small kernels become one convolution each (as in the authors' published parameter counts),
    SLaK's three branches two rectangular ones. Every changed part is compared with its original in float64 on random
    input. Models without such modules come back as plain copies. ``timm.utils.reparameterize_model`` does the same
    without the check, and also fuses what timm's own models offer.

    Args:
        model: any module that contains RepLKNet or SLaK blocks, also after conversion to synchronised batch norm.
        dense: merge SLaK's rectangles into one dense kernel too; see ``ReparamLargeKernelConv.reparameterize``.
        deep: fold every other norm that can be folded exactly, too: batch norms behind convolutions (the authors'
            ``deep_fuse_BN``, also in detectors' heads), those in front of 1 x 1 convolutions, and SLaK's layer-norm
            and layer scales. Such a model is for inference; its weights load into no other.
        example: images (N, 3, H, W), or whatever ``model`` takes: SLaK's two and one kernel are then timed on maps of
            the sizes that these lead to, and the faster is taken, in place of ``dense``. (The third form, its branches
            as they are, does all that the two do, and more.)

    Raises:
        RuntimeError: a merged module differs from its original by more than 1e-8 of its largest output.
    """
    merged = copy.deepcopy(model).eval()
    shapes = {} if example is None else _shapes(merged, example)
    faster: dict[Hashable, bool] = {}
    for name, unit in list(_units(merged, deep)):
        forms = []
        for module in _large_kernels(unit):
            key = (shapes.get(module), *(conv.kernel_size for conv in _convolutions(module)))
            if key[0] is not None and key not in faster:
                faster[key] = _is_dense_faster(module, shapes[module])
            forms.append(faster.get(key, dense))
        if not next(unit.parameters()).is_meta:
            reference = copy.deepcopy(unit).cpu().double()
            candidate = copy.deepcopy(reference)
            _convert(candidate, forms, deep)
            _check(name, reference, candidate)
        _convert(unit, forms, deep)
    return merged


def _large_kernels(module: nn.Module) -> list[ReparamLargeKernelConv]:
    return [part for part in module.modules() if isinstance(part, ReparamLargeKernelConv)]


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


def _units(model: nn.Module, deep: bool) -> Iterator[tuple[str, nn.Module]]:
    """The parts that are converted and checked one by one."""
    owners = Counter(child for parent in model.modules() for child in parent.children())

    def visit(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if isinstance(module, ReparamLargeKernelConv) or (deep and hasattr(module, "fold_norms")):
            yield name, module
            return
        # A convolution that is also used elsewhere, perhaps with another norm, is left alone.
        if deep and is_conv_bn(module) and owners[module[0]] == 1:
            yield name, module
        for key, child in module.named_children():
            yield from visit(f"{name}.{key}".lstrip("."), child)

    return visit("", model)


def _convert(unit: nn.Module, forms: list[bool], deep: bool) -> None:
    """Merge a unit in place; ``forms`` says for each large kernel in it whether it becomes dense."""
    for module, dense in zip(_large_kernels(unit), forms):
        module.reparameterize(dense)
    if is_conv_bn(unit):
        fuse_sequence(unit)
    elif deep and hasattr(unit, "fold_norms"):
        for layers in unit.children():
            fuse_sequence(layers)
        unit.fold_norms()


@torch.no_grad()
def _check(name: str, reference: nn.Module, candidate: nn.Module) -> None:
    if isinstance(reference, nn.Sequential):  # what follows a convolution and its norm may be anything
        reference, candidate = reference[:2], candidate[:2]
        least = max((side - 1) * step + 1 for side, step in zip(reference[0].kernel_size, reference[0].dilation))
    else:  # padded by half the kernel: on this map every weight touches the output
        least = max(max(conv.kernel_size) // 2 + 1 for conv in _convolutions(reference))
    channels = _convolutions(reference)[0].in_channels
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, least + 1, least, generator=generator, dtype=torch.float64)
    expected: Tensor = reference(x)
    error, limit = (candidate(x) - expected).abs().max().item(), 1e-8 * expected.abs().max().item()
    if not error <= limit:
        raise RuntimeError(f"the merged form of {name or 'the model'} is off by {error:.1e}, more than {limit:.1e}")


# ---------------------------------------------------------------- the faster form of SLaK's kernels


@torch.no_grad()
def _shapes(model: nn.Module, example: Tensor) -> dict[nn.Module, torch.Size]:
    """The shape of the maps that each decomposed kernel sees."""
    found: dict[nn.Module, torch.Size] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: found.update({module: inputs[0].shape}))
        for module in model.modules()
        if isinstance(module, ReparamLargeKernelConv) and hasattr(module, "LoRA1")
    ]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _is_dense_faster(module: ReparamLargeKernelConv, shape: torch.Size) -> bool:
    weight = next(module.parameters())
    # In the layout that SLaK's layer norms, whose channels are innermost, leave the maps in.
    x = torch.randn(shape, device=weight.device, dtype=weight.dtype).contiguous(memory_format=torch.channels_last)
    forms = [copy.deepcopy(module), copy.deepcopy(module)]
    least = [math.inf, math.inf]
    for dense, form in enumerate(forms):
        form.reparameterize(bool(dense))
        form(x)  # here the operator chooses its own way
    for _ in range(ROUNDS):
        for dense, form in enumerate(forms):
            least[dense] = min(least[dense], seconds(lambda form=form: form(x), x.device))
    return least[1] < least[0]
