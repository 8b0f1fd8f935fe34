"""Runs that exist already, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lk_downstream.commands.parsing import new_parser, parse
from lk_downstream.machine import shown_path
from lk_downstream.study import Study, is_study

if TYPE_CHECKING:
    from lk_downstream.analysis.runs import Run

DESCRIPTION = """Compare runs: metric, spread over seeds, which differences are noise, and costs.

Runs that differ in their seeds alone are one row. Writes comparison.csv, .md and .tex, and plots, to --output.
A folder may be that of a run (runs/demo_segmentation/run_0) or of a study (studies/NAME)."""


def main(args: list[str]) -> int:
    """Compare by the words of a command line."""
    parser = new_parser("compare", DESCRIPTION)
    parser.add_argument("folders", nargs="+", help="of runs, or of studies")
    parser.add_argument("--output", default="comparison", help="folder for the tables and plots")
    parser.add_argument("--baseline", help="the model that the others are compared with; default: the first")
    parser.add_argument("--costs", type=bool, default=True, help="measure speed and memory of the models")
    options = parse(parser, args)
    folders = list(map(Path, options.folders))
    if len(folders) == 1 and is_study(folders[0]):
        study = Study.read(folders[0])
        conclude(study.finished(), study.folder, study.published, options.baseline, options.costs, study.commands())
        return 0
    from lk_downstream.analysis.comparison import grouped
    from lk_downstream.analysis.runs import read_run

    chains = [chain for path in folders for chain in (Study.read(path).chains() if is_study(path) else [[path]])]
    groups = grouped([read_run(chain[-1], chain[:-1]) for chain in chains])
    conclude(groups, Path(options.output), {}, options.baseline, options.costs)
    return 0


def conclude(
    groups: Mapping[str, Sequence[Run]],
    folder: Path,
    published: Mapping[str, Mapping[str, float]],
    baseline: str | None,
    measured: bool,
    commands: Sequence[str] = (),
) -> None:
    """Compare runs, write what comes out, and show it.

    Args:
        groups: Runs of each model.
        folder: For the files.
        published: See :func:`lk_downstream.analysis.comparison.compare`.
        baseline: Likewise.
        measured: Whether the costs of the models are measured.
        commands: Lines that have made the runs.
    """
    from rich.console import Console

    from lk_downstream.analysis.comparison import compare, costs_of, size_of_test
    from lk_downstream.reports.comparison import as_text, columns
    from lk_downstream.reports.comparison_page import write

    found = compare(groups, published=published, baseline=baseline)
    if measured:
        size = size_of_test(next(iter(groups.values()))[0])
        found = compare(groups, costs_of(found.models, size, folder / "costs.json"), published, baseline)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # of a table in a file nothing has to be folded
    console.print("", as_text(columns(found)), sep="\n")
    for sentence in found.notes():
        console.print(sentence, markup=False, highlight=False)
    for path in write(found, folder, f"Comparison: {folder.absolute().name}", commands):
        console.print(f"{path.name:<16} {shown_path(path)}", markup=False, highlight=False)
