"""Evaluate on ImageNet-A, -R, -Sketch, -C and -C-bar, and the shape bias, as many of them as there are.

Examples:
python tools/robustness.py --config CONFIG --model.weights in1k_ema --imagenet_a data/imagenet-a
python tools/robustness.py --config CONFIG --ckpt_path CHECKPOINT --imagenet_c imagenet-c --cue_conflict cue-conflict
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("robustness"))
