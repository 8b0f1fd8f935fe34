"""Draw the page of a run, finished or not."""

from __future__ import annotations

from lk_downstream.commands.parsing import new_parser, parse


def main(args: list[str]) -> int:
    """Draw by the words of a command line."""
    parser = new_parser("report", "Draw the page of a run, report.html, from the files in its folder.")
    parser.add_argument("folders", nargs="+", help="of runs, each with its metrics.json or metrics.csv")
    options = parse(parser, args)
    from lk_downstream.reports.run import write_run_page

    for folder in options.folders:
        print(write_run_page(folder))
    return 0
