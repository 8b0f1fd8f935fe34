"""Parameters and multiply-adds of any backbone, as a classifier or in UPerNet.

Counted are the multiplications of convolutions and linear layers, as in the tables of the papers (as FLOPs): no
norms, activations or resizing. Models live on the meta device, so that the largest costs neither memory nor time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import timm
import torch
from torch import Tensor, nn

from lk_downstream.backbones import create_backbone, reparameterize
from lk_downstream.backbones.blocks import ReparamLargeKernelConv
from lk_downstream.backbones.slak import SLaK
from lk_downstream.errors import InputError, near_names
from lk_downstream.heads import FCNHead, UPerHead


@dataclass(frozen=True)
class Cost:
    """What a model, or a part of it, costs.

    Attributes:
        parameters: numbers in its parameters (not in its buffers) that are not zero.
        macs: multiply-adds of one image by numbers that are not zero.
        kernels: those of ``parameters`` in RepLKNet's and SLaK's large kernels with all branches, zeros too.
        kernel_macs: likewise of ``macs``.
    """

    parameters: float = 0.0
    macs: float = 0.0
    kernels: float = 0.0
    kernel_macs: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


class UPerNet(nn.Module):
    """Backbone, decode head and auxiliary head as the published recipes have them."""

    def __init__(self, name: str, classes: int, **arguments):
        super().__init__()
        self.backbone = create_backbone(name, **arguments)
        self.head = UPerHead(self.backbone.channels, classes)
        self.auxiliary_head = FCNHead(self.backbone.channels, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) -> logits of the two heads at strides 4 and 16."""
        features = self.backbone(x)
        return self.head(features), self.auxiliary_head(features)


def build(name: str, classes: int | None = None, merged: bool = False, **arguments) -> nn.Module:
    """A classifier of timm's registry, or UPerNet for this number of classes, on the meta device in eval mode.

    Args:
        name: name of the model.
        classes: classes of UPerNet; None: the classifier for ImageNet-1K.
        merged: in the form for inference, see :func:`~lk_downstream.reparameterize`.
        **arguments: further arguments of the model.

    Raises:
        InputError: there is no such model, or it is not hierarchical, as UPerNet needs it.
    """
    if not timm.is_model(name):
        raise InputError(f"there is no model named {name!r}{near_names(name, timm.list_models())}")
    with torch.device("meta"):
        model = timm.create_model(name, **arguments) if classes is None else UPerNet(name, classes, **arguments)
        return reparameterize(model.eval()) if merged else model.eval()


def costs(model: nn.Module, size: tuple[int, int], density: float = 1.0) -> dict[str, Cost]:
    """The cost of each part of a model on the meta device, by the names of its children.

    Args:
        model: takes images (N, 3, H, W).
        size: height and width of the images.
        density: share of the weights of SLaK that are not zero, which alone its authors count; 0.6 in what they
            released. It concerns what SLaK prunes, which is every matrix and kernel of the network: not norms, not
            biases, and no heads of UPerNet.

    Raises:
        InputError: the model does not take images of this size.
    """
    networks = [network for network in model.modules() if isinstance(network, SLaK)]
    sparse = {id(p) for network in networks for p in network.parameters() if p.ndim in (2, 4)}
    blocks = [block for block in model.modules() if isinstance(block, ReparamLargeKernelConv)]
    kernels = {id(p) for block in blocks for p in block.parameters() if p.ndim == 4}
    parts = {name: name.split(".")[0] for name, _ in model.named_modules()}
    found = {name: Cost() for name, _ in model.named_children()} | {"": Cost()}
    for name, parameter in model.named_parameters():
        share = density if id(parameter) in sparse else 1.0
        kernel = parameter.numel() if id(parameter) in kernels else 0
        part = parts.get(name.rpartition(".")[0], "")
        found[part] += Cost(parameters=share * parameter.numel(), kernels=kernel)

    def add(part: str, layer: nn.Module, output: Tensor) -> None:
        macs = output.numel() * layer.weight[0].numel()  # for each output: input channels of its group x kernel area
        share = density if id(layer.weight) in sparse else 1.0
        found[part] += Cost(macs=share * macs, kernel_macs=macs if id(layer.weight) in kernels else 0)

    layers = [
        (parts[name], layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, part=part: add(part, layer, output))
        for part, layer in layers
    ]
    try:
        with torch.no_grad():
            model(torch.empty(1, 3, *size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"the model does not take images of {size[0]} x {size[1]} pixels: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return {name: cost for name, cost in found.items() if cost != Cost()}


def total(parts: dict[str, Cost], auxiliary: bool = True) -> Cost:
    """The sum of the costs of all parts, with or without the auxiliary head, which is not used after training."""
    return sum((cost for name, cost in parts.items() if auxiliary or name != "auxiliary_head"), Cost())
