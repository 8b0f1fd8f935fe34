"""Read some of a data set's masks and print the values found against those expected.

Example: python tools/check_data.py --dataset SegmentationFolder --dataset.root data/mine --split val
"""

import sys
from collections.abc import Callable

from lk_downstream.data import SegmentationDataset
from lk_downstream.data.check import check_dataset
from lk_downstream.errors import run_tool


def check(dataset: Callable[[str], SegmentationDataset], split: str = "train", count: int = 200) -> int:
    """Read samples of a data set and print what is in its masks; the exit code is 1 if training would refuse some.

    Args:
        dataset: ADE20K, Cityscapes or SegmentationFolder with its options, such as --dataset.root.
        split: The split to read.
        count: Largest number of samples to read.
    """
    report = check_dataset(dataset(split), count)
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    names = [kind.__name__ for kind in SegmentationDataset.__subclasses__()]
    sys.exit(run_tool(check, dict(zip(names, names)), as_positional=False))
