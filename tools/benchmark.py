"""Speed of large-kernel convolutions and backbones against plain PyTorch: a table, a CSV file and a plot.

python tools/benchmark.py layers --batch 2 --channels 64 --sizes 16 32 --kernels 7 31 --depth 1
python tools/benchmark.py networks --models replknet_31b slak_tiny --batch 1
python tools/benchmark.py layers --device cuda --dtype bfloat16
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("benchmark"))
