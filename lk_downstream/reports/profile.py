"""A table of what models cost where they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

COLUMNS = ("image", "batch", "params", "not 0", "MACs", "ms", "quartiles", "images/s", "MiB")


def profile_table(profiles: Iterable[Mapping[str, Any]]) -> Table:
    """A row for each model, form, size and batch, and one for each of its parts.

    Args:
        profiles: As plain data, see :class:`lk_downstream.analysis.profiling.Profile`.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for profile in profiles:
        table.add_row(
            f"{profile['name']}, {profile['form']}",
            f"{profile['height']} x {profile['width']}",
            str(profile["batch"]),
            _millions(profile["parameters"]),
            _millions(profile["nonzero"]),
            _billions(profile["macs"]),
            _milliseconds(profile["latency"]),
            f"{_milliseconds(profile['fast'])} - {_milliseconds(profile['slow'])}",
            _short(profile["throughput"]),
            f"{profile['memory']:.0f}",
            style="bold",
        )
        for name, part in profile["parts"].items():
            cells = (_millions(part["parameters"]), "", _billions(part["macs"]), _milliseconds(part["latency"]))
            table.add_row(f"  {name}", "", "", *cells)
    table.caption = (
        "ms of a batch: median and quartiles of the rounds; of parts with a stop after each; MACs of one image; "
        "size as height x width"
    )
    table.caption_justify = "left"
    return table


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number else ""


def _billions(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number else ""


def _milliseconds(seconds: float) -> str:
    return _short(1e3 * seconds)


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"
