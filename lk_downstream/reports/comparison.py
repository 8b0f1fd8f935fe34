"""Models side by side, as a table in text, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lk_downstream.reports.images import Images


class Difference(Protocol):
    """To the baseline, with an interval of 95 %, as fractions of 1."""

    difference: float
    low: float
    high: float
    seeds: bool
    noise: bool


@dataclass(frozen=True)
class Costs:
    """What a merged model costs.

    Attributes:
        parameters: numbers.
        macs: multiply-adds of one image.
        latency: median seconds of one image.
        spread: likewise half of the range in which the middle half of the measurements lies.
        memory: peak bytes; None where it cannot be told.
        size: height and width of the image.
    """

    parameters: float
    macs: float
    latency: float
    spread: float
    memory: float | None
    size: tuple[int, int]


@dataclass(frozen=True)
class Model:
    """A model of a comparison.

    Attributes:
        name: As it is shown.
        best, last: the metric of each of its runs at their best and last validation, fractions of 1.
        seconds: mean of the training.
        curves: of each run the metric by optimizer step.
        published: the metric as its authors have published it.
        difference: of the last validation to the baseline's.
        costs: where they were measured.
        checkpoint: of the best run.
    """

    name: str
    best: Sequence[float]
    last: Sequence[float]
    seconds: float
    curves: Sequence[Mapping[int, float]] = ()
    published: float | None = None
    difference: Difference | None = None
    costs: Costs | None = None
    checkpoint: Path | None = None

    @property
    def level(self) -> float:
        """The mean of the best; NaN where no run has one."""
        mean = _moments(self.best)[0]
        return math.nan if mean is None else mean

    @property
    def spread(self) -> float | None:
        """Their standard deviation, where there are two or more."""
        return _moments(self.best)[1]


@dataclass(frozen=True)
class Comparison:
    """Models, and what is the same for all of them.

    Attributes:
        metric: Its name.
        models: In the order in which they are shown.
        baseline: Name of the one that the others are compared with.
        differing: Names of the settings that are not the same in all runs.
        devices: What the runs ran on.
        images: The same ones as each model predicts them.
    """

    metric: str
    models: Sequence[Model]
    baseline: str
    differing: Sequence[str]
    devices: Sequence[str]
    images: Images | None = None

    def notes(self) -> list[str]:
        """Sentences that belong below the table."""
        found = []
        other = [name for name in self.differing if name != "seed_everything"]
        settings = f"{', '.join(other)}; all else is the same" if other else "seeds alone"
        found.append(f"The runs differ in {settings}.")
        drawn = [model.difference for model in self.models if model.difference]
        if drawn:
            seeds = any(each.seeds for each in drawn)
            chance = "images and seeds" if seeds else "images (of one seed, whose chance is not in them)"
            found.append(
                f"Differences are to {self.baseline} at the last validation, with intervals of 95 % over {chance}; "
                "* marks those that are no noise."
            )
        if len(self.devices) > 1:
            found.append(f"The runs ran on different devices ({'; '.join(self.devices)}): do not compare their times.")
        sizes = {model.costs.size for model in self.models if model.costs}
        if sizes:
            shown = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
            found.append(f"Costs are of the merged model for one image of {shown}, measured in turn in one process.")
        return found


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """The cells of the table by heading; metrics in percent, and columns of which nothing is known left out."""
    metric = comparison.metric
    rows = []
    for model in comparison.models:
        costs, found = model.costs, model.difference
        rows.append(
            {
                "model": model.name,
                "runs": str(len(model.best)),
                f"{metric} best": _mean(model.best),
                f"{metric} last": _mean(model.last),
                "published": "" if model.published is None else f"{100 * model.published:.2f}",
                "difference": f"{100 * found.difference:+.2f}{'' if found.noise else ' *'}" if found else "",
                "95 %": f"{100 * found.low:+.2f} to {100 * found.high:+.2f}" if found else "",
                "parameters M": f"{costs.parameters / 1e6:.2f}" if costs else "",
                "MACs G": f"{costs.macs / 1e9:.2f}" if costs else "",
                "latency ms": f"{1e3 * costs.latency:.1f} ± {1e3 * costs.spread:.1f}" if costs else "",
                "memory MiB": f"{costs.memory / 2**20:.0f}" if costs and costs.memory is not None else "",
                "training min": f"{model.seconds / 60:.1f}",
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0] if any(row[name] for row in rows)}


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the sample, of those values that are there."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.mean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None


def _mean(values: Sequence[float]) -> str:
    """In percent, with the standard deviation."""
    mean, spread = _moments(values)
    return "-" if mean is None else f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def as_text(cells: Mapping[str, Sequence[str]]) -> Any:
    """A table for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, cells), box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in zip(*cells.values()):
        table.add_row(*map(escape, row))
    return table


def as_csv(comparison: Comparison) -> str:
    """A row for each model, metrics as fractions of 1 and costs in plain units, for other programs."""
    file = io.StringIO(newline="")
    heading = ["model", "runs", "best", "best_std", "last", "last_std", "published"]
    heading += ["difference", "low", "high", "noise"]
    heading += ["parameters", "macs", "latency_s", "latency_spread_s", "memory_bytes", "training_s", "checkpoint"]
    writer = csv.writer(file)
    writer.writerow(heading)
    for model in comparison.models:
        found, costs = model.difference, model.costs
        row = [model.name, len(model.best), *_moments(model.best), *_moments(model.last), model.published]
        row += [found.difference, found.low, found.high, found.noise] if found else [None] * 4
        row += [costs.parameters, costs.macs, costs.latency, costs.spread, costs.memory] if costs else [None] * 5
        writer.writerow([*row, round(model.seconds, 1), model.checkpoint])
    return file.getvalue()


def as_markdown(cells: Mapping[str, Sequence[str]]) -> str:
    """A table of Markdown, as GitHub shows it."""
    table = [tuple(cells), *zip(*cells.values())]
    rows = [[re.sub(r"([|\\`*_<>\[\]])", r"\\\1", cell) for cell in row] for row in table]
    rows.insert(1, ["---", *["---:"] * (len(cells) - 1)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_latex(cells: Mapping[str, Sequence[str]]) -> str:
    """A table of LaTeX by the package booktabs."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"}

    def line(row: Sequence[str]) -> str:
        return " & ".join("".join(special.get(letter, letter) for letter in cell) for cell in row) + r" \\"

    body = [line(row) for row in zip(*cells.values())]
    kinds = "l" + "r" * (len(cells) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", line(list(cells)), r"\midrule", *body, r"\bottomrule"]
        + [r"\end{tabular}", ""]
    )
