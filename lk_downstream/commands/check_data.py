"""Read some of a data set and say what is in it, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lk_downstream import data
from lk_downstream.commands.parsing import call
from lk_downstream.data import ClassFolder, DetectionDataset, SegmentationDataset
from lk_downstream.data.check import REPORTS, Report, check_dataset
from lk_downstream.data.duplicates import alike, fingerprint, image_paths, shared_images
from lk_downstream.errors import InputError, some

if TYPE_CHECKING:
    from lk_downstream.reports.data_page import Split


def check(
    dataset: Callable[[str], SegmentationDataset | DetectionDataset | ClassFolder],
    split: str | list[str] = "train",
    count: int = 200,
    sheet: str | None = None,
    page: str | None = None,
) -> int:
    """Read samples of a data set and print what is in it; the exit code is 1 if training would refuse some.

    Example: --dataset SegmentationFolder --dataset.root data/mine --split "[train, val]" --sheet samples.png

    Args:
        dataset: Any data set for segmentation, detection or classification, such as SegmentationFolder, Coco or
            ClassFolder, with its options, such as --dataset.root.
        split: The split to read, or several, which are compared: classes that one lacks, images that are in both.
        count: Largest number of samples to read of each.
        sheet: A PNG file to draw some samples to, with their masks, boxes or labels.
        page: An HTML file to write all of this to: classes and sizes of each split, samples, doubts.
    """
    reports: list[Report] = []
    for name in [split] if isinstance(split, str) else split:
        if reports:
            print()
        reports.append(check_dataset(dataset(name), count))
        print(reports[-1])
    pairs = [(other, report) for number, report in enumerate(reports) for other in reports[:number]]
    doubts = [line for pair in pairs for line in compared(*pair)]
    for line in doubts:
        print(f"\n{line}")
    if sheet:
        from lk_downstream.callbacks.sheet import draw_sheet
        from lk_downstream.reports.files import write_image

        write_image(Path(sheet), draw_sheet(reports[0].dataset, reports[0].chosen))
        print(f"\nsamples      {sheet}")
    if page:
        from lk_downstream.reports.data_page import write_data_page

        write_data_page(page, type(reports[0].dataset).__name__, [_plain(report) for report in reports], doubts)
        print(f"\npage         {page}")
    return 1 if any(report.problems for report in reports) else 0


def _plain(report: Report) -> Split:
    """A report as a page takes it, with samples."""
    from lk_downstream.callbacks.sheet import draw_sheet
    from lk_downstream.reports.data_page import Split

    dataset = report.dataset
    sheet = draw_sheet(dataset, report.chosen, 8) if len(report.sizes) else None
    numbers = dataset.split, len(dataset), report.samples, report.sizes, report.extent()
    table = report.columns, report.rows(), report.counted
    return Split(*numbers, *table, report.remarks(), report.problems, sheet)


def compared(one: Report, other: Report) -> list[str]:
    """What two splits have in common that they should not, and the reverse."""
    splits, lines = (one.dataset.split, other.dataset.split), []
    if set(one.dataset.classes) != set(other.dataset.classes):
        only = [sorted(set(a.dataset.classes) - set(b.dataset.classes)) for a, b in ((one, other), (other, one))]
        lines += [f"hint: {name} alone has the classes {some(kinds)}" for name, kinds in zip(splits, only) if kinds]
    paths = [list(image_paths(report.dataset)) for report in (one, other)]
    same = shared_images(*paths, seconds=60)
    known = set(same)
    chosen = [[paths[i][number] for number in report.chosen] for i, report in enumerate((one, other))]
    prints = [_fingerprints(part) for part in chosen]
    pairs = [(chosen[0][first], chosen[1][second]) for first, second in alike(*prints)]
    near = [pair for pair in pairs if pair not in known]
    for what, found in (("are the same file", same), ("look the same, of those read", near)):
        if found:
            lines.append(
                f"hint: {len(found)} images of {splits[0]} and {splits[1]} {what}, such as {found[0][0]} and "
                f"{found[0][1]}: results on them say nothing of new images"
            )
    return lines


def _fingerprints(paths: list[str]) -> np.ndarray:
    from PIL import Image

    from lk_downstream.data.reading import load_image

    found = np.zeros((len(paths), 32), dtype=np.uint8)
    for number, path in enumerate(paths):
        try:
            found[number] = fingerprint(Image.fromarray(load_image(path).permute(1, 2, 0).numpy()))
        except InputError:  # which the report names
            continue
    return found


def main(args: list[str]) -> int:
    """Check by the words of a command line."""
    kinds = [name for name in data.__all__ if isinstance(kind := getattr(data, name), type) and _has_report(kind)]
    return call("check-data", check, args, dict(zip(kinds, kinds)), as_positional=False)


def _has_report(kind: type) -> bool:
    return issubclass(kind, tuple(REPORTS)) and kind not in (data.SegmentationDataset, data.DetectionDataset)
