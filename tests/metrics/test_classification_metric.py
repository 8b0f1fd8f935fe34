"""Counts of classification against torchmetrics and against definitions in float64."""

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
)

from lk_downstream.errors import InputError
from lk_downstream.metrics import ClassificationMetric, confused_pairs


def sample(count=503, classes=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (count,), generator=generator)
    logits = 2 * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), target] += 2
    return logits, target


def metric(logits, target, batch=64, **options):
    found = ClassificationMetric([str(index) for index in range(logits.shape[1])], **options)
    for start in range(0, len(target), batch):
        found.update(logits[start : start + batch], target[start : start + batch])
    return found


def test_torchmetrics_finds_the_same():
    logits, target = sample()
    found = metric(logits, target).compute()
    micro = {"num_classes": 12, "average": "micro"}
    assert found["top1"].item() == pytest.approx(multiclass_accuracy(logits, target, **micro).item(), abs=1e-7)
    assert found["top5"].item() == pytest.approx(multiclass_accuracy(logits, target, top_k=5, **micro).item(), abs=1e-7)
    expected = multiclass_calibration_error(logits.double(), target, num_classes=12, n_bins=15)
    assert found["ECE"].item() == pytest.approx(expected.item(), abs=1e-7)
    assert torch.equal(found["matrix"], multiclass_confusion_matrix(logits, target, num_classes=12))
    recall = multiclass_accuracy(logits, target, num_classes=12, average="none")
    torch.testing.assert_close(found["accuracy"], recall.double(), rtol=0, atol=1e-7)
    for name, theirs in (("precision", multiclass_precision), ("F1", multiclass_f1_score)):
        expected = theirs(logits, target, num_classes=12, average="none")
        torch.testing.assert_close(found[name], expected.double(), rtol=0, atol=1e-7)
        mean = theirs(logits, target, num_classes=12, average="macro").item()
        assert found[f"m{name.capitalize()}"].item() == pytest.approx(mean, abs=1e-7)
    assert found["mRecall"].item() == pytest.approx(recall.mean().item(), abs=1e-7)


def test_calibration_error_is_guos_definition():
    logits, target = sample()
    logits[:3] *= 100  # sure of one class: a confidence of 1 belongs to the last bin
    confidence, prediction = logits.softmax(1).double().max(1)
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            hits = (prediction == target)[inside].double()
            expected += inside.sum().item() / len(target) * abs(hits.mean() - confidence[inside].mean()).item()
    found = metric(logits, target).compute()
    assert found["ECE"].item() == pytest.approx(expected, abs=1e-12)
    assert found["bin_count"].sum() == len(target)


def test_the_order_of_images_and_batches_changes_no_bit():
    logits, target = sample()
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    one, other = metric(logits, target).compute(), metric(logits[order], target[order], batch=37).compute()
    for name, value in one.items():
        assert torch.equal(value.nan_to_num(-1), other[name].nan_to_num(-1)), name


@pytest.mark.parametrize(("classes", "reported"), [(3, False), (5, False), (6, True)])
def test_a_rank_that_no_image_can_miss_is_left_out(classes, reported):
    logits, target = sample(classes=classes)
    assert ("top5" in metric(logits, target).compute()) == reported


def test_classes_that_do_not_occur_are_nan():
    logits, target = sample()
    kept = target != 4
    accuracy = metric(logits[kept], target[kept]).compute()["accuracy"]
    assert accuracy.isnan().nonzero().flatten().tolist() == [4]


def test_so_many_classes_that_pairs_are_not_counted():
    found = metric(torch.randn(4, 2049), torch.arange(4)).compute()
    assert found["matrix"].shape == (0, 0)
    assert 0 <= found["top1"] <= 1


def test_a_label_that_is_no_class():
    with pytest.raises(InputError, match="the labels go from 0 to 3, but there are 3 classes"):
        metric(torch.randn(2, 3), torch.tensor([0, 3]))


def test_confused_pairs():
    matrix = torch.tensor([[5, 3, 0], [7, 1, 2], [0, 0, 9]])
    pairs = confused_pairs(matrix, ["a", "b", "c"], most=2)
    assert [(pair["truth"], pair["prediction"], pair["count"], pair["share"]) for pair in pairs] == [
        ("b", "a", 7, 0.7),
        ("a", "b", 3, 0.375),
    ]
    assert len(confused_pairs(matrix, ["a", "b", "c"])) == 3
