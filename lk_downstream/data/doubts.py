"""What a training on masks should say first."""

from __future__ import annotations

import numpy as np

from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.errors import InputError, some


def doubts(dataset: SegmentationDataset, most_pixels: float = 3e8) -> list[str]:
    """What a training should say first: classes that no mask has, and masks that mean something else than they should.

    Masks all over the data set are read until every class was seen, or about ``most_pixels`` (two seconds). Of more
    masks than that no class is said to be absent, as it may be rare.
    """
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    values, pixels, read = np.zeros(256, dtype=bool), 0, 0
    for index in order:
        try:
            mask = dataset.read_values(dataset.samples[index][2]).numpy()
        except InputError:
            continue  # which the training names
        values[mask.ravel()] = True
        pixels, read = pixels + mask.size, read + 1
        absent = sorted(set(range(len(dataset.classes))) - set(dataset.label_table[np.flatnonzero(values)].tolist()))
        if not absent or pixels > most_pixels:
            break
    found = [doubt] if (doubt := dataset.doubt(np.flatnonzero(values))) else []
    if read == len(order) and absent:
        names = some((dataset.classes[index] for index in absent), 8)
        found.append(f"{len(absent)} of {len(dataset.classes)} classes are in none of the {read} masks: {names}")
    return found
