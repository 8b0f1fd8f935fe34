"""The steps from ResNet to ConvNeXt beside the numbers of the paper, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lk_downstream.analysis.costs import build, costs, total
from lk_downstream.backbones.modern_resnet import STEPS, Step

REGIMES = ("modern_resnet50", "modern_resnet200")
SIDE = 224


def steps_table(steps: Sequence[Step] = STEPS) -> Table:
    """A row for each step: parameters, multiply-adds and the published ones in both regimes, and published accuracy.

    Args:
        steps: some of :data:`STEPS`.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for regime in REGIMES:
        for name in (regime.removeprefix("modern_resnet") + ": params", "MACs", "publ.", "publ. top-1"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for step in steps:
        cells = []
        for regime, macs, top1 in zip(REGIMES, step.macs, step.top1):
            cost = total(costs(build(f"{regime}_{step.name}"), (SIDE, SIDE)))
            cells += [f"{cost.parameters / 1e6:.2f} M", f"{cost.macs / 1e9:.2f} G", f"{macs:.2f}", f"{top1:.2f}"]
        table.add_row(f"modern_resnet.._{step.name}", *cells, step.note)
    table.caption = f"images of {SIDE} x {SIDE}; top-1 on ImageNet-1K with ConvNeXt's recipe, as published"
    table.caption_justify = "left"
    return table
