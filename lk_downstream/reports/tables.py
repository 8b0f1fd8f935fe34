"""Tables for a terminal, and metrics as they are printed."""

from __future__ import annotations

import math
from typing import Any

from rich.markup import escape
from rich.table import Table


def metrics_of_kinds(summary: dict[str, float]) -> dict[str, list]:
    """The metrics named ``<kind>_<metric>``, as ``bbox_AP``, as a table with a row for each metric and a column a kind.

    A metric that no kind has (COCO's large objects where there are none) gets no row.
    """
    named = {tuple(name.rsplit("_", 1)): value for name, value in summary.items() if "_" in name}
    kinds = list(dict.fromkeys(kind for kind, _ in named))
    metrics = list(dict.fromkeys(metric for (_, metric), value in named.items() if not math.isnan(value)))
    if not metrics:
        return {}
    return {"": metrics} | {kind: [named.get((kind, name), math.nan) for name in metrics] for kind in kinds}


def class_table(columns: dict[str, list], most: int = 200) -> Table:
    """A table of the classes that occur, from columns whose first holds the names and the others fractions of 1.

    Args:
        columns: The columns by their headings.
        most: Of more classes, the 20 with the lowest metrics in the second column are shown.
    """
    names = list(columns)
    table = Table(*names, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = list(zip(*columns.values()))
    present = [row for row in rows if not all(math.isnan(value) for value in row[1:])]
    shown = present if len(present) <= most else sorted(present, key=lambda row: row[1])[:20]
    for name, *values in shown:
        table.add_row(escape(str(name)), *(percent(value) for value in values))
    if len(shown) < len(present):
        table.caption = f"the lowest {len(shown)} of {len(present)} classes; all are in metrics.json"
    elif len(present) < len(rows):
        table.caption = f"{len(rows) - len(present)} of {len(rows)} classes occur neither in truth nor prediction"
    table.caption_justify = "left"
    return table


def robustness_table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each benchmark and each corruption, in percent, and what the partial ones lack."""
    relative = any("mCE" in metrics for metrics in results.values())
    cues = any("shape_bias" in metrics for metrics in results.values())
    columns = ("", "top-1", "error", *(["CE"] if relative else []), *(["shape bias"] if cues else []), "images")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    notes = []
    for name, metrics in results.items():
        partial = bool(metrics["missing"])
        if partial:
            notes.append(f"* {name} is partial, without {_listed(metrics['missing'])}")
        cells = _cells(1 - metrics["top1"], metrics.get("mCE"), relative)
        cells += [percent(metrics["shape_bias"]) if "shape_bias" in metrics else ""] if cues else []
        table.add_row(f"{name}{' *' * partial}", *cells, str(metrics["images"]), style="bold")
        for corruption, values in metrics.get("corruptions", {}).items():
            cells = _cells(values["error"], values.get("CE"), relative) + ([""] if cues else [])
            table.add_row(f"  {corruption}", *cells, "")
    if relative:
        notes.append("CE: error relative to AlexNet's; in bold the mean (mCE)")
    if cues:
        notes.append("shape bias: decisions for the shape, of those for the shape or the texture; top-1 of the shape")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def _cells(error: float, relative_error: float | None, relative: bool) -> list[str]:
    """Top-1, error and, if there is a column for it, the relative error, in percent."""
    values = [1 - error, error, *([relative_error] if relative else [])]
    return ["" if value is None else f"{100 * value:.2f}" for value in values]


def _listed(missing: list[str], most: int = 12) -> str:
    rest = f" and {len(missing) - most} more" if len(missing) > most else ""
    return ", ".join(missing[:most]) + rest


def percent(fraction: float) -> str:
    """A fraction of 1 in percent; a dash for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
