"""Evaluate: ``python tools/evaluate.py --config CONFIG --ckpt_path CHECKPOINT`` (or ``--model.weights FILE``)."""

from lk_downstream.cli import main

if __name__ == "__main__":
    main("validate")
