"""Read some of a data set's masks and print the values found against those expected.

Example: python tools/check_data.py --dataset SegmentationFolder --dataset.root data/mine --split val
"""

import sys

from lk_downstream.commands import run

if __name__ == "__main__":
    sys.exit(run("check-data"))
