"""The published sizes of ConvNeXt, RepLKNet and SLaK beside this package's, as a table.

The numbers are those of the authors' READMEs. Each is counted by the rule that its authors seem to have followed:

* ConvNeXt: parameters with UPerNet's auxiliary head, multiply-adds without.
* RepLKNet: the merged form, without auxiliary head.
* SLaK: what is not zero at the published density of 0.6. UPerNet's numbers are reproduced if the large kernels, which
  a CUDA extension computes there, are taken as dense in the parameters and are left out of the multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from rich.table import Table
from torch import nn

from lk_downstream.analysis import costs
from lk_downstream.analysis.costs import Cost

DENSITY = 0.6

_CUT = "published result cut, not rounded"
_SNIP = "counted at one density; the authors' differ by layer (SNIP)"
_MERGE = "no form, with or without auxiliary head, has 110 M"


class Published(NamedTuple):
    """A row of the authors' tables.

    Attributes:
        model: name of the model.
        size: height and width of the image.
        parameters: millions, as published.
        macs: thousand millions of multiply-adds, as published.
        note: why a number differs by more than 1 percent.
        classes: of UPerNet; None: a classifier.
        arguments: further arguments of the model.
    """

    model: str
    size: tuple[int, int]
    parameters: float
    macs: float
    note: str = ""
    classes: int | None = None
    arguments: tuple[tuple[str, object], ...] = ()


def _classifier(
    model: str, side: int, parameters: float, macs: float, note: str = "", **arguments: object
) -> Published:
    return Published(model, (side, side), parameters, macs, note, None, tuple(arguments.items()))


def _upernet(model: str, height: int, parameters: float, macs: float, note: str = "") -> Published:
    return Published(model, (height, 4 * height), parameters, macs, note, 150)


ROWS = (
    _classifier("convnext_tiny", 224, 28, 4.5, _CUT),
    _classifier("convnext_tiny", 384, 29, 13.1, "28.59 M rounded to 29"),
    _classifier("convnext_small", 224, 50, 8.7),
    _classifier("convnext_small", 384, 50, 25.5),
    _classifier("convnext_base", 224, 89, 15.4),
    _classifier("convnext_base", 384, 89, 45.0),
    _classifier("convnext_base", 384, 89, 47.0, "misprint for ImageNet-22K: the same network has 45.0 G above"),
    _classifier("convnext_large", 224, 198, 34.4),
    _classifier("convnext_large", 384, 198, 101.0),
    _classifier("convnext_xlarge", 224, 350, 60.9),
    _classifier("convnext_xlarge", 384, 350, 179.0),
    _classifier("convnext_isotropic_small", 224, 22, 4.3, _CUT),
    _classifier("convnext_isotropic_base", 224, 87, 16.9),
    _classifier("convnext_isotropic_large", 224, 306, 59.7),
    _classifier("replknet_31b", 224, 79, 15.3),
    _classifier("replknet_31b", 384, 79, 45.1),
    _classifier("replknet_31l", 384, 172, 96.0),
    _classifier("replknet_xl", 320, 335, 128.7),
    _classifier("slak_tiny", 224, 30, 5.0, f"parameters cut, not rounded; {_SNIP}"),
    _classifier("slak_small", 224, 55, 9.8, _SNIP),
    _classifier("slak_base", 224, 95, 17.1),
    _classifier("slak_tiny", 224, 30, 4.8, _SNIP, kernel_size=(31, 29, 27, 13, 5)),
    _classifier("slak_tiny", 224, 31, 5.2, _SNIP, kernel_size=(61, 59, 57, 13, 5)),
    _upernet("convnext_tiny", 512, 60, 939),
    _upernet("convnext_small", 512, 82, 1027),
    _upernet("convnext_base", 512, 122, 1170),
    _upernet("convnext_base", 640, 122, 1828),
    _upernet("convnext_large", 640, 235, 2458),
    _upernet("convnext_xlarge", 640, 391, 3335),
    _upernet("replknet_31b", 512, 112, 1170),
    _upernet("replknet_31b", 640, 112, 1829),
    _upernet("replknet_31l", 640, 207, 2404),
    _upernet("replknet_xl", 640, 374, 3431),
    Published("replknet_31b", (1024, 2048), 110, 2315, _MERGE, 19),
    _upernet("slak_tiny", 512, 65, 936),
    _upernet("slak_small", 512, 91, 1028),
    _upernet("slak_base", 512, 135, 1172),
)


@dataclass(frozen=True)
class Compared:
    """A published row and what this package's model costs by the same rule (numbers, not millions)."""

    row: Published
    parameters: float
    macs: float

    @property
    def differences(self) -> tuple[float, float]:
        """Relative difference of parameters and of multiply-adds from the published results."""
        return self.parameters / (1e6 * self.row.parameters) - 1, self.macs / (1e9 * self.row.macs) - 1


def compare(row: Published) -> Compared:
    """Count the model of a published row by the rule of its authors."""
    family = row.model.split("_")[0]
    density = DENSITY if family == "slak" else 1.0
    model = _model(row.model, row.classes, family == "replknet", row.arguments)
    parts = costs.costs(model, row.size, density)
    without = costs.total(parts, auxiliary=False)
    parameters = without.parameters if family == "replknet" else costs.total(parts).parameters
    macs = without.macs
    if family == "slak" and row.classes:
        parameters += (1 - density) * without.kernels
        macs -= density * without.kernel_macs
    return Compared(row, parameters, macs)


@cache
def _model(name: str, classes: int | None, merged: bool, arguments: tuple[tuple[str, object], ...]) -> nn.Module:
    return costs.build(name, classes, merged, **dict(arguments))


def published_table(rows: Iterable[Published] = ROWS) -> Table:
    """The published rows, this package's numbers, and the differences; beyond 1 percent, why."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("image", "params", "publ.", "diff.", "MACs", "publ.", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for row in rows:
        found = compare(row)
        first, second = found.differences
        note = row.note if max(abs(first), abs(second)) > 0.01 else ""
        kernels = f" ({row.arguments[0][1][0]})" if row.arguments else ""
        table.add_row(
            row.model + kernels + (" UPerNet" if row.classes else ""),
            _size(row.size),
            f"{found.parameters / 1e6:.2f} M",
            f"{row.parameters:g}",
            _difference(first),
            f"{found.macs / 1e9:.2f} G",
            f"{row.macs:g}",
            _difference(second),
            note,
        )
    return table


def cost_table(name: str, size: tuple[int, int], parts: dict[str, Cost]) -> Table:
    """The cost of each part of one model, and the sum."""
    table = Table(title=f"{name}, {_size(size)}", box=None, header_style="bold", pad_edge=False, title_justify="left")
    table.add_column("part")
    large = any(cost.kernels for cost in parts.values())
    for header in ("parameters", "MACs", *(["large kernels, zeros too"] if large else [])):
        table.add_column(header, justify="right")
    for part, cost in [*(parts.items() if len(parts) > 1 else ()), ("total", costs.total(parts))]:
        kernels = [f"{cost.kernels / 1e6:.2f} M, {cost.kernel_macs / 1e9:.2f} G"] if cost.kernels else []
        table.add_row(part, f"{cost.parameters / 1e6:.2f} M", f"{cost.macs / 1e9:.2f} G", *kernels)
    return table


def _size(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[1]} x {size[0]}"


def _difference(value: float) -> str:
    text = f"{100 * value:+.1f} %"
    return text if abs(value) <= 0.01 else f"[yellow]{text}[/]"
