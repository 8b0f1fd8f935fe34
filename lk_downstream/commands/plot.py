"""Draw the curves of a run, finished or not."""

from __future__ import annotations

from lk_downstream.commands.parsing import new_parser, parse


def main(args: list[str]) -> int:
    """Draw by the words of a command line."""
    parser = new_parser("plot", "Draw loss, learning rates and validation metrics to curves.png.")
    parser.add_argument("folders", nargs="+", help="of runs, each with its metrics.csv")
    parser.add_argument("--monitor", help="the metric that matters, such as val/mIoU; default: the task's")
    options = parse(parser, args)
    from lk_downstream.reports.curves import plot_run

    for folder in options.folders:
        print(plot_run(folder, options.monitor))
    return 0
