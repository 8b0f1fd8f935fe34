"""A readable table of an optimizer's parameter groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from lk_downstream.optim.groups import ParameterGroups

# How much of a name says where in the model a parameter stands.
_PLACES = (
    (re.compile(r"^(?:backbone\.)?(?:body\.)?stages\.(\d+)\.downsample\."), r"downsample.\1"),
    (re.compile(r"^(?:backbone\.)?(?:body\.)?(stages\.\d+)\.(?:blocks\.)?(\d+)\."), r"\1.\2"),
    (re.compile(r"^(?:backbone\.)?(?:body\.)?((?:stages|layers|blocks)\.\d+)\.(\D\w*)\..*"), r"\1.\2"),
    (re.compile(r"^(?:backbone\.)?(?:body\.)?((?:downsample_layers|transitions|layers|blocks)\.\d+)\."), r"\1"),
    (re.compile(r"^backbone\.(?:body\.)?(\w+)\."), r"\1"),
    (re.compile(r"^(\w+)\."), r"\1"),
)


def groups_table(groups: ParameterGroups, model: nn.Module, factory: Callable[[Iterable], Optimizer]) -> Table:
    """A row for each parameter group: where its tensors stand, how many, learning rate and weight decay.

    Args:
        groups: The rules.
        model: A task or a classifier; may lie on the meta device.
        factory: Makes the optimizer from parameter groups.
    """
    parts = groups(model)
    optimizer = groups.optimizer(model, factory)
    decay = groups.layer_decay
    rule = f"{decay.by}-wise decay {decay.rate:g} over {decay.layers}" if decay else "one learning rate"
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="none")
    table.title = f"{type(optimizer).__name__}, {rule}, without weight decay: {groups.no_decay.replace('_', ' ')}"
    table.add_column("group", justify="right")
    table.add_column("layers", overflow="fold")
    for name in ("tensors", "parameters", "factor", "lr", "decay"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, (part, group) in enumerate(zip(parts, optimizer.param_groups)):
        sizes = [parameter.numel() for parameter in part["params"]]
        table.add_row(
            str(number),
            places(part["names"]),
            str(len(sizes)),
            f"{sum(sizes):,}",
            f"{part['lr_scale']:.5f}",
            f"{group['lr']:.4g}",
            f"{group.get('weight_decay', 0):g}",
        )
    return table


def places(names: Sequence[str]) -> str:
    """Where parameters of these names stand, in the model's order: ``stages.2.0-2, downsample_layers.3``."""
    found: dict[str, list[int] | None] = {}
    for name in names:
        place = next((match.expand(new) for pattern, new in _PLACES if (match := pattern.match(name))), name)
        stage, _, block = place.rpartition(".")
        if block.isdigit():
            found.setdefault(stage, []).append(int(block))
        else:
            found.setdefault(place, None)
    return ", ".join(place if blocks is None else f"{place}.{_ranges(blocks)}" for place, blocks in found.items())


def _ranges(numbers: Iterable[int]) -> str:
    """``0-2`` for 0, 1, 2; ``0-2 5`` where there is a gap."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
