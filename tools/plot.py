"""Draw the curves of a run, finished or not: ``python tools/plot.py runs/demo_segmentation/run_0``."""

import argparse

from lk_downstream.callbacks import plot_run
from lk_downstream.errors import InputError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw loss, learning rates and validation figures to curves.png.")
    parser.add_argument("folders", nargs="+", help="of runs, each with its metrics.csv")
    parser.add_argument("--monitor", help="the figure that matters, such as val/mIoU; default: the task's")
    options = parser.parse_args()
    try:
        for folder in options.folders:
            print(plot_run(folder, options.monitor))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
