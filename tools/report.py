"""Draw the page of a run, finished or not: ``python tools/report.py runs/demo_segmentation/run_0``."""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("report"))
