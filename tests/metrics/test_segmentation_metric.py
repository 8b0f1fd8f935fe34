"""The confusion matrix against mmsegmentation's IoUMetric."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmseg.evaluation import IoUMetric
from processes import in_two_processes

from lk_downstream.errors import InputError
from lk_downstream.metrics import SegmentationMetric


def make_images(number, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for index in range(number):
        size = (20 + 3 * index, 31)
        target = torch.randint(0, classes - 1, size, generator=generator).to(torch.uint8)  # the last class is absent
        prediction = torch.where(torch.rand(size, generator=generator) < 0.6, target.long(), 1)
        target[:2] = 255
        yield prediction.clamp(max=classes - 2), target


def measured(items, classes):
    metric = SegmentationMetric([str(index) for index in range(classes)])
    for prediction, target in items:
        metric.update(prediction, target)
    return metric.compute()


@pytest.mark.parametrize("classes", [2, 7, 150])
def test_equal_to_mmsegmentation(classes):
    theirs = IoUMetric(iou_metrics=["mIoU"])
    theirs.dataset_meta = {"classes": [str(index) for index in range(classes)]}
    areas = [
        theirs.intersect_and_union(prediction, target.long(), classes, 255)
        for prediction, target in make_images(5, classes)
    ]
    expected = theirs.total_area_to_metrics(*(sum(area) for area in zip(*areas)), ["mIoU", "mDice", "mFscore"])
    metrics = measured(make_images(5, classes), classes)
    # Their areas are float32 histograms, exact up to 2**24 pixels: these images are small enough.
    torch.testing.assert_close(metrics["IoU"].float().numpy(), expected["IoU"], rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(metrics["Acc"].float().numpy(), expected["Acc"], rtol=1e-6, atol=0, equal_nan=True)
    assert metrics["aAcc"].item() == pytest.approx(float(expected["aAcc"]), rel=1e-6)
    for ours, name in (("F1", "Dice"), ("F1", "Fscore"), ("Precision", "Precision"), ("Acc", "Recall")):
        own, other = metrics[ours].float().numpy(), np.asarray(expected[name], np.float32)
        known = ~np.isnan(other)  # their Fscore is none where a class is never predicted
        np.testing.assert_allclose(own[known], other[known], rtol=1e-6)
    assert metrics["mF1"].item() == pytest.approx(np.nanmean(expected["Dice"]), rel=1e-6)


def test_by_hand_and_absent_classes_do_not_count():
    target = torch.tensor([[0, 0, 1, 255]], dtype=torch.uint8)
    metrics = measured([(torch.tensor([[0, 1, 1, 2]]), target)], 4)
    assert metrics["IoU"][:2].tolist() == [0.5, 0.5]
    assert math.isnan(metrics["IoU"][2])  # predicted on an ignored pixel alone
    assert metrics["mIoU"].item() == 0.5
    assert metrics["mAcc"].item() == 0.75
    assert metrics["F1"][:2].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert metrics["Precision"][:2].tolist() == [1, 0.5]
    assert metrics["aAcc"].item() == pytest.approx(2 / 3)
    assert metrics["matrix"].sum() == 3


def test_a_class_that_is_only_predicted_has_no_accuracy_but_an_iou_of_zero():
    metrics = measured([(torch.tensor([1]), torch.tensor([0], dtype=torch.uint8))], 3)
    assert metrics["IoU"][1] == 0
    assert math.isnan(metrics["Acc"][1])
    assert metrics["mIoU"] == 0


def test_counts_beyond_single_precision():
    metric = SegmentationMetric(["a", "b"])
    metric.matrix += torch.tensor([[2**40 + 1, 1], [0, 1]])
    assert metric.compute()["matrix"][0, 0] == 2**40 + 1


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_prediction(kind):
    target = torch.tensor([149, 0], dtype=torch.uint8)
    assert measured([(torch.tensor([149, 0], dtype=kind), target)], 150)["aAcc"] == 1


def test_a_label_outside_the_classes_is_named():
    with pytest.raises(InputError, match="label values 3, 254 but there are only 3 classes"):
        measured([(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3, 254], dtype=torch.uint8))], 3)


def _share(rank, folder):
    dist.init_process_group("gloo")
    torch.save(measured(list(make_images(5, 7))[rank::2], 7)["matrix"], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_different_numbers_of_images(tmp_path):
    in_two_processes(_share, tmp_path)
    expected = measured(make_images(5, 7), 7)["matrix"]
    assert torch.equal(torch.load(tmp_path / "0.pt"), expected)
    assert torch.equal(torch.load(tmp_path / "1.pt"), expected)
