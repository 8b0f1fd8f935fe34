"""Speed against plain PyTorch and against other libraries, both sides in one run: tables, and files of the numbers.

python tools/benchmark.py layers --batch 2 --channels 64 --sizes 16 32 --kernels 7 31 --depth 1
python tools/benchmark.py networks --models replknet_31b slak_tiny --batch 1
python tools/benchmark.py pipeline      # also: archives, metric, scoring, step, start
python tools/benchmark.py table benchmark/*.json --readme README.md
"""

import sys

import benchmarks

from lk_downstream.commands import run

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in benchmarks.PARTS:
        sys.exit(benchmarks.main(sys.argv[1:]))
    sys.exit(run("benchmark"))
