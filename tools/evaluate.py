"""Validate: ``python tools/evaluate.py --config CONFIG --ckpt_path CHECKPOINT`` (or ``--model.weights FILE``).

An existing results file in COCO's format: ``python tools/evaluate.py --results FILE --annotations FILE``.
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("evaluate"))
