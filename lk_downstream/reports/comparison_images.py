"""The same images as several models see them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lk_downstream.reports.images import Images, Sample, fitting, read_images


def common_images(folders: Mapping[str, Path]) -> Images | None:
    """The images that the runs of all models have left, with the prediction of each model.

    Args:
        folders: Of each model the folder of a run.

    Returns:
        A sample for each image and model, those of an image one after the other, the image that is the worst on average
        first, as many as a page holds. None: the runs have none in common, or are of different classes.

    Raises:
        InputError: A file of theirs is damaged.
    """
    found = {name: read_images(folder) for name, folder in folders.items()}
    every = [images for images in found.values() if images]
    if len(every) < max(2, len(found)) or any(list(images.classes) != list(every[0].classes) for images in every):
        return None
    samples = {name: {sample.name: sample for sample in images.samples} for name, images in found.items()}
    names = set.intersection(*map(set, samples.values()))
    groups = [
        [replace(own[name], facts={"model": model, **own[name].facts}) for model, own in samples.items()]
        for name in names
    ]
    shown = fitting(sorted(groups, key=_level))
    first = every[0]
    return replace(first, samples=shown, all_of=first.all_of * len(found)) if shown else None


def _level(group: list[Sample]) -> tuple[bool, float, str]:
    """By which groups are sorted: their mean metric, those without one last."""
    values = [sample.metric for sample in group if not math.isnan(sample.metric)]
    return not values, statistics.mean(values or [0.0]), group[0].name
