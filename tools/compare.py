"""Compare runs that exist already: ``python tools/compare.py runs/NAME/run_0 runs/NAME/run_1``."""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("compare"))
