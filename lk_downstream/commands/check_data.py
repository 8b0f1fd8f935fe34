"""Read some of a data set's masks and print the values found against those expected."""

from __future__ import annotations

from collections.abc import Callable

from lk_downstream.commands.parsing import call
from lk_downstream.data import SegmentationDataset
from lk_downstream.data.check import check_dataset


def check(dataset: Callable[[str], SegmentationDataset], split: str = "train", count: int = 200) -> int:
    """Read samples of a data set and print what is in its masks; the exit code is 1 if training would refuse some.

    Example: --dataset SegmentationFolder --dataset.root data/mine --split val

    Args:
        dataset: ADE20K, Cityscapes or SegmentationFolder with its options, such as --dataset.root.
        split: The split to read.
        count: Largest number of samples to read.
    """
    report = check_dataset(dataset(split), count)
    print(report)
    return 1 if report.problems else 0


def main(args: list[str]) -> int:
    """Check by the words of a command line."""
    names = [kind.__name__ for kind in SegmentationDataset.__subclasses__()]
    return call("check-data", check, args, dict(zip(names, names)), as_positional=False)
