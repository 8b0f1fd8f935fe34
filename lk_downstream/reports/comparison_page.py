"""The page of a comparison, and all that is written of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lk_downstream.reports.charts import Chart, Intervals, Line
from lk_downstream.reports.comparison import Comparison, as_csv, as_latex, as_markdown, columns
from lk_downstream.reports.comparison_plots import AXES, draw_costs, draw_curves
from lk_downstream.reports.files import write_image, write_text
from lk_downstream.reports.page import Section, write_page
from lk_downstream.reports.parts import Facts, Table, Text


def write(comparison: Comparison, folder: Path, title: str, commands: Sequence[str] = ()) -> list[Path]:
    """Write the table as CSV, Markdown and LaTeX, the plots, and the page to a folder; returns the files.

    Args:
        comparison: What is written.
        folder: Made where it is not there.
        title: Of the page.
        commands: Lines that have made the runs.
    """
    cells = columns(comparison)
    texts = {"csv": as_csv(comparison), "md": as_markdown(cells), "tex": as_latex(cells)}
    written = [write_text(folder / f"comparison.{suffix}", text) for suffix, text in texts.items()]
    for name, image in (("costs.png", draw_costs(comparison)), ("curves.png", draw_curves(comparison))):
        if image is not None:
            write_image(folder / name, image)
            written.append(folder / name)
    return [*written, write_page(folder / "report.html", title, sections(comparison, commands))]


def sections(comparison: Comparison, commands: Sequence[str] = ()) -> list[Section]:
    """What the page shows."""
    metric, models = comparison.metric, comparison.models
    cells = columns(comparison)
    parts: list = [Table(list(cells), list(zip(*cells.values())), note=" ".join(comparison.notes()))]
    drawn = [(model.name, model.difference) for model in models if model.difference]
    if drawn:
        values = [[100 * getattr(each, name) for _, each in drawn] for name in ("difference", "low", "high")]
        heading = f"{metric}, difference to {comparison.baseline} in points, 95 %"
        parts.append(Intervals([name for name, _ in drawn], *values, title=heading, x=metric))
    costs = [
        Chart(
            [
                Line(model.name, [getattr(model.costs, name) * factor], [100 * model.level], points=True)
                for model in models
                if model.costs
            ],
            title=f"{metric} against {heading}",
            x=heading,
            y=f"{metric}, %",
        )
        for heading, name, factor in AXES
        if any(model.costs for model in models)
    ]
    lines = [
        Line(model.name, list(curve), [100 * y for y in curve.values()])
        for model in models
        for curve in model.curves
        if len(curve) > 1
    ]
    curves = [Chart(lines, title=f"{metric} of every run", x="optimizer step", y=f"{metric}, %")] if lines else []
    checkpoints = {model.name: str(model.checkpoint) for model in models if model.checkpoint}
    return [
        Section("Comparison", parts),
        Section("Costs", costs, note="Of merged models, as they are used."),
        Section("Curves", curves),
        Section(
            "Images",
            [comparison.images] if comparison.images else [],
            "that the best run of each model shows, as each predicts them, the worst on average first",
        ),
        Section("Best checkpoints", [Facts(checkpoints)] if checkpoints else []),
        Section("How it was made", [Text("\n".join(commands), "commands")] if commands else []),
    ]
