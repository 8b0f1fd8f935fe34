"""Score an existing results file in COCO's format."""

from __future__ import annotations

from lk_downstream.commands.parsing import new_parser, parse


def main(args: list[str]) -> int:
    """Score by the words of a command line."""
    parser = new_parser("evaluate", "Score an existing results file by COCO's protocol.")
    parser.add_argument("--results", required=True, help="list of results, such as a run's results.bbox.json")
    parser.add_argument("--annotations", required=True, help="such as data/coco/annotations/instances_val2017.json")
    parser.add_argument("--kind", choices=("bbox", "segm"), help="what to score; default: masks if there are any")
    parser.add_argument("--backend", choices=("vectorized", "pycocotools"), default="vectorized")
    options = parse(parser, args)
    from rich.console import Console

    from lk_downstream.metrics.coco_results import metrics_table, score_file

    scores = score_file(options.annotations, options.results, options.kind, options.backend)
    Console(soft_wrap=True).print(metrics_table(scores))
    return 0
