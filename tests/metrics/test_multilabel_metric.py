"""Average precision of several labels against torchmetrics and by hand, and over processes."""

import pytest
import torch
from processes import in_two_processes
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from lk_downstream.errors import InputError
from lk_downstream.metrics import MultiLabelMetric
from lk_downstream.metrics.multilabel import average_precision


def sample(count=301, classes=7):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(count, classes, generator=generator) < 0.3).float()
    logits = torch.randn(count, classes, generator=generator) + labels
    return (4 * logits).round() / 4, labels  # many of the same score


def metric(logits, labels, batch=64):
    found = MultiLabelMetric([str(index) for index in range(logits.shape[1])])
    for start in range(0, len(labels), batch):
        found.update(logits[start : start + batch], labels[start : start + batch])
    return found


def test_torchmetrics_finds_the_same():
    logits, labels = sample()
    labels[:, 3] = 0  # a class that does not occur
    found = metric(logits, labels).compute()
    expected = multilabel_average_precision(logits.double().sigmoid(), labels.long(), 7, average=None)
    assert found["AP"].isnan().tolist() == [index == 3 for index in range(7)]
    kept = torch.arange(7) != 3
    torch.testing.assert_close(found["AP"][kept], expected[kept].double(), rtol=0, atol=1e-6)
    assert found["mAP"].item() == pytest.approx(found["AP"][kept].mean().item(), abs=1e-12)
    expected = multilabel_f1_score(logits.sigmoid(), labels.long(), 7, average="micro")
    assert found["F1"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_by_hand():
    scores, labels = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([1, 0, 1, 0])
    assert average_precision(scores, labels).item() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(scores.flip(0), labels.flip(0)).item() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_scores_that_a_probability_would_round_to_one_keep_their_order():
    assert average_precision(torch.tensor([30.0, 40.0]), torch.tensor([0, 1])).item() == 1


def test_nothing_and_labels_that_are_none():
    empty = metric(torch.zeros(0, 3), torch.zeros(0, 3)).compute()
    assert empty["mAP"].isnan()
    for labels in (torch.zeros(2, 4), torch.full((2, 3), 0.5)):
        with pytest.raises(InputError, match="have to be 0 or 1"):
            metric(torch.zeros(2, 3), labels)


def gathered(rank, path):
    torch.distributed.init_process_group("gloo")
    logits, labels = sample()
    shares = (slice(0, 301), slice(0, 0)) if path.stem == "all" else (slice(0, 100), slice(100, 301))
    metrics = metric(logits[shares[rank]], labels[shares[rank]]).compute()
    torch.save(metrics, path.with_suffix(f".{rank}"))


@pytest.mark.parametrize("share", ["all", "some"])
def test_two_processes_find_the_same(tmp_path, share):
    """Also where one of them has no image at all."""
    in_two_processes(gathered, tmp_path / f"{share}.pt")
    alone = metric(*sample()).compute()
    for rank in (0, 1):
        metrics = torch.load(tmp_path / f"{share}.{rank}", weights_only=True)
        assert {name: value.tolist() for name, value in metrics.items()} == {k: v.tolist() for k, v in alone.items()}
