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

from lk_downstream.errors import InputError

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)  # what mmcv's norm_decay_mult means; custom layer norms are not in it

# Names in the authors' and in timm's models. A transition of RepLKNet stands where ConvNeXt has a downsampling layer.
BLOCK = re.compile(r"\bstages\.(\d+)\.(?:blocks\.)?(\d+)\.")
DOWNSAMPLE = (
    (re.compile(r"\b(?:stem|downsample_layers\.0)\."), lambda found: 0),
    (re.compile(r"\bdownsample_layers\.(\d+)\."), lambda found: int(found[1])),
    (re.compile(r"\bstages\.(\d+)\.downsample\."), lambda found: int(found[1])),
    (re.compile(r"\btransitions\.(\d+)\."), lambda found: int(found[1]) + 1),
)


@dataclass
class LayerDecay:
    """Learning rates that fall from the head to the stem: ``rate ** (layers + 1 - id)``, the head having factor 1.

    The authors' rule for ConvNeXt and SLaK (mmcv_custom/layer_decay_optimizer_constructor.py of ConvNeXt). In other
    backbones the ids are those of the stages, as timm groups them; by ``layer``, spread evenly over ``layers``.

    Args:
        rate: Factor from one layer id to the next.
        layers: Number of ids below the head: 12 for models with 27 blocks in the third stage, 6 for those with 9.
        by: ``stage``: all downsampling layers have id 0, stage s has s + 1. ``layer``: three blocks of the third stage
            share an id.
    """

    rate: float
    layers: int = 12
    by: Literal["stage", "layer"] = "stage"

    def scales(self, model: nn.Module) -> dict[str, float]:
        """The factor of every parameter of ``model``, by name; 1 for those outside ``model.backbone``."""
        backbone = getattr(model, "backbone", None)
        names = [name for name, _ in model.named_parameters()]
        ids = {name: self._id(name) for name in names if name.startswith("backbone.")}
        if backbone is not None and not any(BLOCK.search(name) for name in ids):
            groups = group_parameters(backbone.body, backbone.body.group_matcher(coarse=True))
            step = 1 if self.by == "stage" else self.layers / max(groups)
            ids = {f"backbone.body.{name}": index * step for index, group in groups.items() for name in group}
        return {name: self.rate ** (self.layers + 1 - ids.get(name, self.layers + 1)) for name in names}

    def _id(self, name: str) -> int:
        for pattern, stage_of in DOWNSAMPLE:
            if found := pattern.search(name):
                stage = stage_of(found)
                return 0 if self.by == "stage" else (0, 2, 3, self.layers)[stage]
        if found := BLOCK.search(name):
            stage, block = int(found[1]), int(found[2])
            return stage + 1 if self.by == "stage" else (1, 2, 3 + block // 3, self.layers)[stage]
        return self.layers + 1


@dataclass
class ParameterGroups:
    """How a model's parameters are grouped for the optimizer.

    Args:
        no_decay: What has no weight decay. ``vectors``: every tensor of one dimension (norms, biases, layer scale), as
            in ConvNeXt and SLaK. ``norms``: parameters of norm layers alone, as in RepLKNet (norm_decay_mult=0).
        layer_decay: Layer-wise learning rates; None: the same rate everywhere.
    """

    no_decay: Literal["vectors", "norms", "nothing"] = "vectors"
    layer_decay: LayerDecay | None = None

    def __call__(self, model: nn.Module) -> list[dict[str, Any]]:
        """Group the parameters of ``model`` that are trained.

        Returns:
            One dictionary a group, from the stem to the head: ``params``, ``names``, ``lr_scale`` and, where nothing
            decays, ``weight_decay`` 0.
        """
        norms = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, NORMS)
            for parameter in module.parameters(recurse=False)
        }
        scales = self.layer_decay.scales(model) if self.layer_decay else {}
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            spared = {
                "vectors": parameter.ndim <= 1 or name.endswith(".bias"),
                "norms": id(parameter) in norms,
                "nothing": False,
            }[self.no_decay]
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
        optimizer = factory(groups)
        for group, tensors in zip(optimizer.param_groups, names):
            group["lr"] *= group["lr_scale"]
            group["tensors"] = len(tensors)
        return optimizer
