"""Write the mean of checkpoints: ``python tools/average.py runs/demo_segmentation/run_0 --best 3 --output x.ckpt``."""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("average"))
