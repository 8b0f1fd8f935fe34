"""The large kernels of several models as one image, and how much of them lies outside of smaller ones.

Examples:
python tools/kernels.py --models "[replknet_31b:in1k, convnext_tiny:in1k]"
python tools/kernels.py --models "[runs/mine/run_0]" --inner "[7, 13, 31]" --output kernels_of_mine
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("kernels"))
