"""Evaluate on ImageNet-A, -R, -Sketch, -C and -C-bar, as many of them as there are.

Examples:
python tools/robustness.py --config CONFIG --model.weights in1k_ema --imagenet_a data/imagenet-a
python tools/robustness.py --config CONFIG --ckpt_path CHECKPOINT --imagenet_c data/imagenet-c
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch: its threads do not spin where cores are shared

from lk_downstream.cli import main

if __name__ == "__main__":
    main("robustness")
