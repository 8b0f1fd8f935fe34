"""Effective receptive fields of several models side by side, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from lk_downstream.reports.plotting import plain_text, rendered, shown_name

COLOURS = ("white", "tab:cyan", "tab:orange", "tab:red")  # of the squares, from the smallest share on


class Drawn(NamedTuple):
    """A field to draw.

    Attributes:
        model: its name.
        stride: of the map.
        field: (side, side), in 0..1.
        ratios: area of the square that holds a share, by the share.
    """

    model: str
    stride: int
    field: np.ndarray
    ratios: dict[float, float]


def draw_fields(fields: Sequence[Drawn]) -> np.ndarray:
    """A column for each model, a row for each stride: the field, brighter where it is stronger, and its squares.

    All have one scale, from 0 to 1, the maximum of each; its square root is what the colours show.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(field.model for field in fields))
    strides = sorted({field.stride for field in fields})
    by_place = {(field.stride, field.model): field for field in fields}
    with plain_text():
        figure = Figure((2.9 * len(models) + 1.0, 3.3 * len(strides) + 0.6), dpi=110, layout="constrained")
        axes = figure.subplots(len(strides), len(models), squeeze=False)
        for (row, column), axis in np.ndenumerate(axes):
            axis.set_axis_off()
            if field := by_place.get((strides[row], models[column])):
                shown = axis.imshow(field.field, "magma", norm=PowerNorm(0.5, 0, 1))
                _squares(axis, len(field.field), field.ratios)
                axis.set_title(f"{shown_name(field.model, 30)}\nstride {field.stride}", fontsize=8)
        bar = figure.colorbar(shown, ax=axes, shrink=0.8)
        bar.set_label("log10(gradient + 1) over its maximum", fontsize=7)
        bar.ax.tick_params(labelsize=7)
        return rendered(figure)


def _squares(axis: Any, side: int, ratios: dict[float, float]) -> None:
    from matplotlib.patches import Rectangle

    for colour, (share, ratio) in zip(COLOURS, ratios.items()):
        length = side * ratio**0.5
        corner = side // 2 - length / 2 if ratio < 1 else -0.5  # pixels are drawn from -0.5 to side - 0.5
        axis.add_patch(Rectangle((corner, corner), length, length, fill=False, edgecolor=colour, linewidth=0.9))
        axis.plot([], [], color=colour, label=f"{100 * share:g} % in {100 * ratio:.1f} %")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=6, facecolor="0.6", handlelength=1.2)


def fields_table(fields: Sequence[Drawn]) -> Table:
    """A row for each field: area of the squares that hold the shares, in percent of the image's."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ("stride", *(f"{100 * share:g} %" for share in fields[0].ratios)):
        table.add_column(name, justify="right", no_wrap=True)
    for field in fields:
        cells = (f"{100 * ratio:.2f}" for ratio in field.ratios.values())
        table.add_row(field.model, str(field.stride), *cells)
    table.caption = "area, in percent of the image's, of the centred square that holds a share of the field"
    table.caption_justify = "left"
    return table
