"""Evaluate: ``python tools/evaluate.py --config CONFIG --ckpt_path CHECKPOINT`` (or ``--model.weights FILE``).

An existing results file in COCO's format: ``python tools/evaluate.py --results FILE --annotations FILE``.
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch: its threads do not spin where cores are shared

from lk_downstream.cli import main


def score_results() -> None:
    from rich.console import Console

    from lk_downstream.errors import InputError
    from lk_downstream.metrics.coco_results import figures_table, score_file

    parser = argparse.ArgumentParser(description="Score an existing results file by COCO's protocol.")
    parser.add_argument("--results", required=True, help="list of results, such as a run's results.bbox.json")
    parser.add_argument("--annotations", required=True, help="such as data/coco/annotations/instances_val2017.json")
    parser.add_argument("--kind", choices=("bbox", "segm"), help="what to score; default: masks if there are any")
    parser.add_argument("--backend", choices=("vectorized", "pycocotools", "faster_coco_eval"), default="vectorized")
    options = parser.parse_args()
    try:
        scores = score_file(options.annotations, options.results, options.kind, options.backend)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    Console(soft_wrap=True).print(figures_table(scores))


if __name__ == "__main__":
    if any(word.split("=")[0] == "--results" for word in sys.argv[1:]):
        score_results()
    else:
        main("validate")
