"""The values that predictions are written with lead back to the classes."""

from functools import partial

import numpy as np
import pytest

from lk_downstream.data import ADE20K, Cityscapes, SegmentationData, SegmentationFolder
from lk_downstream.data.classes import CITYSCAPES_LABEL_IDS


@pytest.mark.parametrize(
    ("dataset", "first"),
    [
        (partial(ADE20K, root="nowhere"), [1, 2, 3]),
        (partial(Cityscapes, root="nowhere"), list(CITYSCAPES_LABEL_IDS)[:3]),
        (partial(SegmentationFolder, root="nowhere", classes=["a", "b", "c"]), [0, 1, 2]),
        (partial(SegmentationFolder, root="nowhere", classes=["a", "b"], reduce_zero_label=True), [1, 2]),
        # Of the values 1 and 7, which both stand for the class 1, the one that is named.
        (partial(SegmentationFolder, root="nowhere", classes=["a", "b"], label_map={7: 1, 9: 0}), [9, 7]),
    ],
)
def test_values_of_the_files(dataset, first):
    data = SegmentationData(dataset=dataset)
    count = len(data.classes)
    values = data.label_values
    assert values[: len(first)].tolist() == first
    assert (data.train_data.label_table[values[:count]] == np.arange(count)).all()
    assert (values[count:] == 255).all()


def test_a_class_that_no_value_stands_for_is_written_as_unlabelled():
    dataset = partial(SegmentationFolder, root="nowhere", classes=["a", "b"], label_map={0: 255})
    assert SegmentationData(dataset=dataset).label_values[:3].tolist() == [255, 1, 255]
