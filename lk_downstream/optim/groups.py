"""Parameter groups: which tensors decay, and layer-wise learning rates, by the rules of each paper.

The learning rates really reach the optimizer: :meth:`ParameterGroups.optimizer` multiplies them into the groups.
(timm's ``lr_scale`` is read by timm's own schedulers alone and would do nothing here.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from lk_downstream.errors import InputError
from lk_downstream.optim.moments import keep_options

BATCH_NORMS = (_NormBase, nn.GroupNorm)
NORMS = (*BATCH_NORMS, nn.LayerNorm)

# Names in the authors' and in timm's models. A downsampling layer comes before its stage, a transition after it.
BLOCK = re.compile(r"\bstages\.(\d+)\.(?:blocks\.)?(\d+)\.")
DOWNSAMPLE = re.compile(r"\bdownsample_layers\.(\d+)\.|\bstages\.(\d+)\.downsample\.")
TRANSITION = re.compile(r"\btransitions\.(\d+)\.")
STEM = re.compile(r"\b(?:stem|downsample_layers\.0)\.")


@dataclass
class LayerDecay:
    """Learning rates that fall from the head to the stem: ``rate ** (layers + 1 - id)``, the head having factor 1.

    The ids of ConvNeXt and SLaK are those of their authors (ConvNeXt's optim_factory.py, and downstream
    mmcv_custom/layer_decay_optimizer_constructor.py), the ids of RepLKNet those of its optim_factory.py. In other
    backbones they are those of the stages, as timm groups them; by ``layer``, spread evenly over ``layers``.

    Args:
        rate: Factor from one layer id to the next.
        layers: Number of ids below the head: 12 for models with 27 blocks in the third stage and for RepLKNet, 6 for
            those with 9.
        by: ``stage``: the stem and all downsampling layers have id 0, stage s and the transition after it s + 1.
            ``layer``: the stem 0, the first two stages 1 and 2, the blocks of the third stage ids from 3 to
            ``layers - 1`` in equal parts (three blocks each in ConvNeXt and SLaK, four in RepLKNet), the last stage
            ``layers``; the downsampling layers before stages 1 to 3 have 2, 3 and ``layers``, the transitions after
            stages 0 to 2 have 1, 2 and ``layers - 1``.
    """

    rate: float
    layers: int = 12
    by: Literal["stage", "layer"] = "stage"

    def __post_init__(self):
        if not 0 < self.rate <= 1 or self.layers < 3:
            raise InputError(
                f"layer_decay has the rate {self.rate} and {self.layers} layers: the rate must be above 0 and at most "
                "1, and the layers at least 3"
            )

    def scales(self, model: nn.Module) -> dict[str, float]:
        """The factor of every parameter of ``model``, by name.

        Heads, final norms and per-level norms have 1. A model with a ``backbone`` is a task; any other is a classifier.

        Raises:
            InputError: timm does not say what the layers of this backbone are.
        """
        top = self.layers + 1
        return {name: self.rate ** (top - number) for name, number in self.ids(model).items()}

    def ids(self, model: nn.Module) -> dict[str, float]:
        """The layer id of every parameter of ``model``, by name; ``layers + 1`` for the head."""
        names = [name for name, _ in model.named_parameters()]
        backbone = getattr(model, "backbone", None)
        inside = [name for name in names if backbone is None or name.startswith("backbone.")]
        if any(BLOCK.search(name) for name in inside):
            blocks = max(
                (int(found[2]) for name in inside if (found := BLOCK.search(name)) and found[1] == "2"), default=0
            )
            ids = {name: self._id(name, blocks + 1) for name in inside}
        else:
            ids = self._timm_ids(
                model if backbone is None else backbone.body, "" if backbone is None else "backbone.body."
            )
        return {name: ids.get(name, self.layers + 1) for name in names}

    def _id(self, name: str, blocks: int) -> int:
        """The id of a parameter of ConvNeXt, SLaK or RepLKNet, whose third stage has this many blocks."""
        if STEM.search(name):
            return 0
        if found := DOWNSAMPLE.search(name):
            return 0 if self.by == "stage" else (0, 2, 3, self.layers)[int(found[1] or found[2])]
        if found := TRANSITION.search(name):
            return (1, 2, 3 if self.by == "stage" else self.layers - 1)[int(found[1])]
        if found := BLOCK.search(name):
            stage, block = int(found[1]), int(found[2])
            third = 3 + block * (self.layers - 3) // blocks
            return stage + 1 if self.by == "stage" else (1, 2, third, self.layers)[stage]
        return self.layers + 1

    def _timm_ids(self, network: nn.Module, prefix: str) -> dict[str, float]:
        if not hasattr(network, "group_matcher"):
            raise InputError(
                f"layer_decay cannot tell the layers of {type(network).__name__} apart; leave groups.layer_decay out"
            )
        groups = group_parameters(network, network.group_matcher(coarse=True))
        head = classifier_names(network)
        groups = {index: [name for name in group if not name.startswith(head)] for index, group in groups.items()}
        step = 1 if self.by == "stage" else self.layers / max(index for index, group in groups.items() if group)
        return {f"{prefix}{name}": index * step for index, group in groups.items() for name in group}


def pretrained_names(model: nn.Module, stages: int | None = None) -> list[str]:
    """Names of the parameters of a task's backbone, in the model's order.

    Args:
        model: A task. What it adds to the network of the backbone (norms of levels, a classifier's last layer) is not
            among them.
        stages: Only the stem and the first so many stages, each with the downsampling before it and the transition
            after it; None: all.

    Raises:
        InputError: timm does not say what the stages of this backbone are.
    """
    network = model.backbone.body
    last = tuple(f"backbone.body.{name}" for name in classifier_names(network))
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.body.")]
    names = [name for name in names if not last or not name.startswith(last)]
    if stages is None:
        return names
    ids = LayerDecay(1.0).ids(model)

    def within(name: str) -> bool:
        # By layer-wise decay every downsampling layer belongs to the stem.
        found = DOWNSAMPLE.search(name)
        return int(found[1] or found[2]) < stages if found else ids[name] <= stages

    return [name for name in names if within(name)]


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """What the names of the classifier's parameters in a timm model begin with."""
    names = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


@dataclass
class ParameterGroups:
    """How a model's parameters are grouped for the optimizer.

    Args:
        no_decay: What has no weight decay. ``vectors``: every tensor of one dimension (norms, biases, layer scale), as
            in ConvNeXt and SLaK. ``norms``: parameters of norm layers alone. ``batch_norms``: those of batch, instance
            and group norms alone, which is what mmcv's norm_decay_mult=0 spares in RepLKNet and SLaK (the layer norms
            of ConvNeXt and SLaK are classes of their own there, which mmcv does not know).
        layer_decay: Layer-wise learning rates; None: the same rate everywhere.
    """

    no_decay: Literal["vectors", "norms", "batch_norms", "nothing"] = "vectors"
    layer_decay: LayerDecay | None = None

    def __call__(self, model: nn.Module) -> list[dict[str, Any]]:
        """Group the parameters of ``model`` that are trained.

        Returns:
            One dictionary a group, from the stem to the head: ``params``, ``names``, ``lr_scale`` and, where nothing
            decays, ``weight_decay`` 0.
        """
        kinds = {"norms": NORMS, "batch_norms": BATCH_NORMS}.get(self.no_decay, ())
        norms = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, kinds)
            for parameter in module.parameters(recurse=False)
        }
        scales = self.layer_decay.scales(model) if self.layer_decay else {}
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            vector = parameter.ndim <= 1 or name.endswith(".bias")
            spared = vector if self.no_decay == "vectors" else id(parameter) in norms
            scale = scales.get(name, 1.0)
            group = groups.setdefault((scale, spared), {"params": [], "names": [], "lr_scale": scale})
            if spared:
                group["weight_decay"] = 0.0
            group["params"].append(parameter)
            group["names"].append(name)
        return [groups[key] for key in sorted(groups)]

    def optimizer(self, model: nn.Module, factory: Callable[[Iterable], Optimizer]) -> Optimizer:
        """The optimizer of ``factory`` on the groups of ``model``, with the factors in the learning rates."""
        groups = self(model)
        if not groups:
            raise InputError("nothing to train: every parameter is frozen")
        names = [group.pop("names") for group in groups]
        try:
            optimizer = factory(groups)
        except (TypeError, ValueError) as error:  # PyTorch's way of refusing a setting
            raise InputError(f"the optimizer refuses its settings: {error}") from error
        for group, tensors in zip(optimizer.param_groups, names):
            group["lr"] *= group["lr_scale"]
            group["tensors"] = len(tensors)
        keep_options(optimizer, names)
        fuse(optimizer)
        return optimizer


def fuse(optimizer: Optimizer) -> None:
    """Let PyTorch's optimizers update in one pass over the parameters, where the devices have it and nothing is asked.

    It is set group by group: an optimizer that is made with ``fused`` takes over the division by a loss scale, after
    which Lightning refuses to clip gradients in float16.
    """
    for group in optimizer.param_groups:
        free = all(group.get(name, True) is None for name in ("fused", "foreach")) and not group.get("differentiable")
        kinds = {parameter.device.type for parameter in group["params"]}
        floating = all(parameter.is_floating_point() for parameter in group["params"])
        if free and floating and kinds <= set(_get_fused_kernels_supported_devices()):
            group["fused"] = True
