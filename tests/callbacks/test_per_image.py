"""Tables of a validation: each image, the worst first, and the confusion matrix; the same under several processes."""

import base64
import csv
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from processes import in_two_processes

from lk_downstream.callbacks import (
    ClassificationPerImage,
    ConfusionMatrix,
    DetectionPerImage,
    MultiLabelPerImage,
    SegmentationPerImage,
)
from lk_downstream.reports.confusion import draw_matrix
from lk_downstream.reports.images import from_plain

CLASSES = ("a", "b", "c")


def trainer(folder, rank=0, world=1):
    return SimpleNamespace(
        log_dir=str(folder), global_rank=rank, world_size=world, is_global_zero=rank == 0, sanity_checking=False,
        fast_dev_run=False, loggers=[],
    )  # fmt: skip


def table(folder, name="per_image.csv"):
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def validate(callback, run, batches):
    task = SimpleNamespace(classes=CLASSES)
    callback.on_validation_start(run, task)
    for number, (outputs, batch) in enumerate(batches):
        callback.on_validation_batch_end(run, task, outputs, batch, number)
    callback.on_validation_epoch_end(run, task)


def segmentations():
    good, bad = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]])
    truth = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    masks = {"good": (good, truth), "bad": (bad, truth), "empty": (good, torch.full_like(truth, 255))}
    return [({"prediction": p.byte()}, {"name": [name], "mask": mask}) for name, (p, mask) in masks.items()]


def test_segmentation(tmp_path):
    validate(SegmentationPerImage(), trainer(tmp_path), segmentations())
    worst, best, empty = table(tmp_path)
    assert [row["name"] for row in (worst, best, empty)] == ["bad", "good", "empty"]
    assert (worst["mIoU"], worst["worst class"], worst["its IoU"], worst["aAcc"]) == (
        "0.500000", "a", "0.500000", "0.666667",
    )  # fmt: skip
    assert (best["mIoU"], best["unlabelled"]) == ("1.000000", "0.250000")
    assert (empty["mIoU"], empty["worst class"], empty["unlabelled"]) == ("", "", "1.000000")


def test_classification(tmp_path):
    logits = torch.tensor([[2.0, 0, 0], [0.0, 3, 0], [9.0, 0, 0]])
    batch = {"name": ["x", "y", "z"], "label": torch.tensor([0, 0, 0])}
    validate(ClassificationPerImage(), trainer(tmp_path), [({"prediction": logits}, batch)])
    rows = table(tmp_path)
    assert [row["name"] for row in rows] == ["y", "x", "z"]
    probability = 1 / (2 + math.exp(3))
    assert float(rows[0]["probability"]) == pytest.approx(probability, abs=1e-6)
    assert float(rows[0]["loss"]) == pytest.approx(-math.log(probability), abs=1e-6)
    assert (rows[0]["truth"], rows[0]["prediction"]) == ("a", "b")


def test_several_labels(tmp_path):
    logits = torch.tensor([[9.0, -9, -9], [1.0, 2, -3], [-9.0, -9, -9]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])
    batch = {"name": ["x", "y", "z"], "labels": labels, "image": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}
    validate(MultiLabelPerImage(), trainer(tmp_path), [({"prediction": logits}, batch)])
    rows = table(tmp_path)
    assert [row["name"] for row in rows] == ["y", "x", "z"]
    assert [[row[part] for part in ("truth", "missed", "wrong")] for row in rows] == [
        ["b|c", "c", "a"], ["a", "", ""], ["", "", ""],
    ]  # fmt: skip
    chances = [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(3))]
    assert float(rows[0]["loss"]) == pytest.approx(-sum(map(math.log, chances)) / 3, abs=1e-6)
    assert float(rows[0]["probability"]) == pytest.approx(math.prod(chances) ** (1 / 3), abs=1e-6)
    found = images(tmp_path).samples[0]
    assert (found.labels, found.facts) == ([0, 1, 2], {"truth": "b|c", "missed": "c", "wrong": "a"})


def test_detection(tmp_path):
    """Two objects, a crowd; found are one of them twice, a box of another class, one of low score, one in the crowd."""
    target = {
        "boxes": torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60], [100, 100, 200, 200]]),  # resized by 2
        "labels": torch.tensor([0, 1, 0]),
        "iscrowd": torch.tensor([False, False, True]),
        "original_size": torch.tensor([120, 110]),
    }
    found = {
        "boxes": torch.tensor([[0, 0, 10, 9], [0, 0, 9, 10], [20, 20, 30, 30], [20, 20, 30, 30], [60, 60, 70, 70]]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.1, 0.6]),
        "labels": torch.tensor([0, 0, 2, 1, 0]),
    }
    batch = {"name": ["n"], "size": torch.tensor([[240, 220]]), "target": [target]}
    validate(DetectionPerImage(), trainer(tmp_path), [({"prediction": [found]}, batch)])
    (row,) = table(tmp_path)
    assert (row["objects"], row["matched"], row["missed"], row["wrong"]) == ("2", "1", "1", "2")
    assert float(row["F1"]) == pytest.approx(2 / 5)
    nothing = {key: value[:0] for key, value in found.items()}
    assert DetectionPerImage().match(nothing, target) == (2, 0, 0)
    assert DetectionPerImage().match(found, {key: value[:0] for key, value in target.items()}) == (0, 0, 4)


def images(folder):
    content = json.loads((folder / "worst_images.json").read_text(encoding="utf-8"))
    return from_plain(content)


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))


def test_the_page_has_the_masks_of_the_worst_images(tmp_path):
    batches = segmentations()
    for _, batch in batches:
        batch["image"] = torch.full((1, 3, 1, 4), 100, dtype=torch.uint8)
    validate(SegmentationPerImage(), trainer(tmp_path), batches)
    found = images(tmp_path)
    assert [sample.name for sample in found.samples] == ["bad", "good", "empty"]
    assert (found.metric, found.all_of) == ("mIoU", 3)
    bad = found.samples[0]
    assert (bad.metric, bad.size, bad.labels) == (0.5, (4, 1), [0, 1])
    assert bad.facts == {"worst class": "a 50.0"}
    truth, prediction = decoded(bad.truth.mask), decoded(bad.prediction.mask)
    assert truth[0, :, 3].tolist() == [255, 255, 255, 0]  # what is unlabelled is transparent
    assert (truth[0, 0, :3] == found.palette[0]).all()
    assert (prediction[0, 1, :3] == found.palette[1]).all()
    assert abs(decoded(bad.image)[..., :3].astype(int) - 100).max() < 5


def test_the_page_has_the_classes_of_the_worst_images(tmp_path):
    logits = torch.eye(3)[torch.arange(99) % 3] * torch.arange(99)[:, None]
    batch = {"name": [f"{i:02}" for i in range(99)], "label": torch.zeros(99).long()}
    batch["image"] = torch.zeros(99, 3, 8, 8, dtype=torch.uint8)
    validate(ClassificationPerImage(), trainer(tmp_path), [({"prediction": logits}, batch)])
    samples = images(tmp_path).samples
    rows = table(tmp_path)
    assert [sample.name for sample in samples[:16]] == [row["name"] for row in rows[:16]]
    others = {sample.name for sample in samples[16:]}
    assert 0 < len(others) <= 8
    assert max(sample.metric for sample in samples[16:]) > 0.9  # not only bad ones
    # Another model shows them, too, in whatever order the images come.
    batch |= {key: batch[key][::-1] if key == "name" else batch[key].flip(0) for key in ("name", "image")}
    validate(ClassificationPerImage(), trainer(tmp_path / "other"), [({"prediction": logits.flip(0).roll(9)}, batch)])
    assert others <= {sample.name for sample in images(tmp_path / "other").samples}
    assert samples[0].labels in ([0, 1], [0, 2])
    assert samples[0].facts["truth"] == "a"


def test_the_page_has_the_objects_of_the_worst_images(tmp_path):
    masks = torch.zeros(2, 240, 220, dtype=torch.bool)
    masks[0, :40, :20] = True
    target = {
        "boxes": torch.tensor([[0.0, 0, 40, 40], [40, 40, 60, 60]]), "labels": torch.tensor([2, 1]), "masks": masks,
        "iscrowd": torch.tensor([False, True]), "original_size": torch.tensor([120, 110]),
    }  # fmt: skip
    found = {
        "boxes": torch.tensor([[0.0, 0, 55, 60], [3, 3, 9, 9]]),
        "scores": torch.tensor([0.9, 0.05]),
        "labels": torch.tensor([0, 0]),
    }
    batch = {"name": ["n"], "size": torch.tensor([[240, 220]]), "target": [target]}
    batch["image"] = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    validate(DetectionPerImage(), trainer(tmp_path), [({"prediction": [found]}, batch)])
    (sample,) = images(tmp_path).samples
    assert sample.size == (220, 240)  # without the padding
    (truth,), (prediction,) = sample.truth.boxes, sample.prediction.boxes  # no crowd, and none of a low score
    assert truth[:6] == (0, 0, 0.1818, 0.1667, 2, None)
    assert prediction == (0, 0, 0.5, 0.5, 0, 0.9, "")
    outline = decoded(truth.mask)
    assert outline.shape[:2] == (40, 40)
    assert (outline[..., 3] > 0).mean() == 0.5
    assert (outline[5, 5, :3] == images(tmp_path).palette[2]).all()


def test_what_goes_wrong_with_an_image_is_one_line(tmp_path, capsys):
    validate(SegmentationPerImage(), trainer(tmp_path), segmentations())  # without images
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("images of report.html: not drawn (KeyError: 'image'")
    assert len(table(tmp_path)) == 3


def _share(rank, folder):
    dist.init_process_group("gloo")
    validate(SegmentationPerImage(), trainer(folder / "two", rank, 2), segmentations()[rank::2])
    dist.destroy_process_group()


def test_two_processes_write_what_one_does(tmp_path):
    validate(SegmentationPerImage(), trainer(tmp_path / "one"), segmentations())
    in_two_processes(_share, tmp_path)
    assert table(tmp_path / "one") == table(tmp_path / "two")
    assert len(table(tmp_path / "two")) == 3


def test_confusion_matrix(tmp_path):
    matrix = torch.tensor([[5, 3, 0], [7, 1, 0], [0, 0, 0]])
    task = SimpleNamespace(classes=("a", "b, $x$", "c"), confusion=matrix, results={"summary": {}})
    ConfusionMatrix().on_validation_end(trainer(tmp_path), task)
    first, second, _ = table(tmp_path, "confusion_matrix.csv")
    assert first == {"truth": "a", "a": "5", "b, $x$": "3", "c": "0"}
    assert second["truth"] == "b, $x$"
    assert (tmp_path / "confusion_matrix.png").is_file()
    task.results = {}  # of a robustness evaluation
    ConfusionMatrix().on_validation_end(trainer(tmp_path / "none"), task)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [1, 70])
def test_a_drawing_of_any_number_of_classes(number):
    image = draw_matrix(np.eye(number, dtype=int), [str(index) for index in range(number)])
    assert image.dtype == np.uint8
    assert draw_matrix(np.zeros((number, number), int), ["x"] * number).ndim == 3
