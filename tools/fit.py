"""Train and evaluate: ``python tools/fit.py --config configs/demo_segmentation.yaml [overrides]``."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch: its threads do not spin where cores are shared

from lk_downstream.cli import main

if __name__ == "__main__":
    main("fit")
