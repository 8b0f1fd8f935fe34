"""Train and validate: ``python tools/fit.py --config configs/demo_segmentation.yaml [overrides]``."""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("fit"))
