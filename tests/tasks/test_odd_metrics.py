"""Metrics of odd data, right and identical for one process and three, where the images do not divide."""

import json
import math
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from processes import in_processes
from torch import nn

from lk_downstream import create_backbone, create_classifier
from lk_downstream.data import DataModule
from lk_downstream.data.classification_transforms import collate_images
from lk_downstream.data.detection_batches import collate_detection
from lk_downstream.detectors import FCOS
from lk_downstream.errors import InputError
from lk_downstream.heads import FCNHead
from lk_downstream.tasks import Classification, Detection, Segmentation

NUMBER, SIDE = 7, 32
NAN = math.nan


class Given(DataModule):
    """Validation on given samples."""

    def __init__(self, classes, samples, collate_val):
        super().__init__(batch_size=1, workers=0)
        self.classes, self.val_set, self.collate_val = classes, samples, collate_val
        self.palette = tuple((0, 0, number) for number in range(len(classes)))


class Segments(Segmentation):
    """Predicts what is in the first channel."""

    def predict(self, images):
        return images[:, 0]


class Classifies(Classification):
    """Finds the class of the first pixel certain."""

    def logits(self, images):
        return 1000.0 * nn.functional.one_hot(images[:, 0, 0, 0].long(), len(self.classes))


class Detects(Detection):
    """Finds a box of the class of the first pixel, or none where that is 255."""

    def predict(self, images, sizes, original_sizes):
        labels = [image[0, 0, 0].long().reshape(1) for image in images]
        labels = [label[label < 255] for label in labels]
        box = torch.tensor([[4.0, 4.0, 20.0, 24.0]])
        return [{"boxes": box[: len(a)], "scores": torch.ones(len(a)), "labels": a} for a in labels]


def image(value):
    return torch.full((3, SIDE, SIDE), value, dtype=torch.uint8)


def segmentation(classes, truth, predicted):
    samples = [
        {"image": image(p), "mask": torch.full((SIDE, SIDE), t, dtype=torch.uint8), "name": str(number)}
        for number, (t, p) in enumerate(zip(truth, predicted))
    ]
    task = Segments(create_backbone("test_convnext"), classes, partial(FCNHead, channels=8), auxiliary_head=None)
    return task, Given(classes, samples, DataModule.collate_val)


def classification(classes, truth, predicted):
    samples = [{"image": image(p), "label": t, "name": str(n)} for n, (t, p) in enumerate(zip(truth, predicted))]
    network = create_classifier("test_convnext", num_classes=len(classes))
    return Classifies(network, classes), Given(classes, samples, collate_images)


def detection(classes, truth, predicted):
    """An object of each class of ``truth``; 255: none."""
    objects = [(number, label) for number, label in enumerate(truth) if label < 255]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(len(truth))],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": label + 1, "bbox": [4, 4, 16, 20], "area": 320, "iscrowd": 0}
            for n, (i, label) in enumerate(objects)
        ],
    }
    size = torch.tensor([SIDE, SIDE])
    samples = [
        {"image": image(p), "name": str(n), "target": {"image_id": n, "original_size": size}}
        for n, p in enumerate(predicted)
    ]
    data = Given(classes, samples, collate_detection)
    data.annotations, data.category_ids = "given", list(range(1, len(classes) + 1))
    data.truth = lambda: content
    return Detects(create_backbone("test_convnext"), FCOS, classes, evaluation="vectorized"), data


# Name -> what makes task and data, its arguments, and metrics that are expected.
CASES = {
    "one class": (segmentation, (("a",), [0] * 7, [0] * 7), {"mIoU": 1.0, "aAcc": 1.0}, {"IoU": [1.0]}),
    "a class that never occurs": (
        *(segmentation, (("a", "b", "c"), [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0])),
        *({"mIoU": (3 / 5 + 2 / 4) / 2, "aAcc": 5 / 7, "mAcc": 0.75}, {"IoU": [0.6, 0.5, NAN], "Acc": [1.0, 0.5, NAN]}),
    ),
    "all ignored": (
        *(segmentation, (("a", "b"), [255] * 7, [0, 1] * 3 + [0])),
        *({"mIoU": NAN, "aAcc": NAN, "mAcc": NAN}, {"IoU": [NAN, NAN]}),
    ),
    "images of one class": (classification, (("a",), [0] * 7, [0] * 7), {"top1": 1.0, "ECE": 0.0}, {"accuracy": [1.0]}),
    "images of a class that never occurs": (
        *(classification, (("a", "b", "c"), [0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1])),
        *({"top1": 6 / 7, "ECE": 1 / 7}, {"accuracy": [0.75, 1.0, NAN]}),
    ),
    "objects of one class": (
        *(detection, (("a",), [0] * 7, [0] * 5 + [255] * 2)),
        *({"bbox_AP": 72 / 101, "bbox_AP50": 72 / 101, "bbox_AR100": 5 / 7, "bbox_APl": NAN}, {"AP": [72 / 101]}),
    ),
    "objects of a class that never occurs": (
        *(detection, (("a", "b", "c"), [0, 0, 0, 0, 1, 1, 1], [0] * 4 + [1] * 3)),
        *({"bbox_AP": 1.0, "bbox_APs": 1.0}, {"AP": [1.0, 1.0, NAN]}),
    ),
    "no objects at all": (
        *(detection, (("a", "b"), [255] * 7, [0] * 7)),
        *({"bbox_AP": NAN, "bbox_AR1": NAN}, {"AP": [NAN, NAN]}),
    ),
    "nothing found": (
        *(detection, (("a", "b"), [0, 1] * 3 + [0], [255] * 7)),
        *({"bbox_AP": 0.0, "bbox_AR100": 0.0}, {"AP": [0.0, 0.0]}),
    ),
}


def trainer(processes, folder):
    return L.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def validate(rank, processes, folder):
    """Metrics of all cases, and what is said of a model whose weights are no numbers."""
    found = {}
    for name, (make, arguments, _, _) in CASES.items():
        task, data = make(*arguments)
        task.configure_callbacks = list
        trainer(processes, folder).validate(task, data, verbose=False)
        found[name] = task.results
        if name.startswith(("one", "images of one", "objects of one")):
            nn.init.constant_(next(task.parameters()), NAN)
            with pytest.raises(InputError, match=r"tensors, such as .* not a number"):
                trainer(processes, folder).validate(task, data, verbose=False)
    (Path(folder) / f"{processes}_{rank}.metrics").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    """The metrics of each process."""
    folder = tmp_path_factory.mktemp("metrics")
    for processes in (1, 2, 3):
        in_processes(processes, validate, processes, str(folder))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.metrics"))}


@pytest.mark.parametrize("name", CASES)
def test_they_are_right_and_identical_everywhere(name, metrics):
    assert set(metrics) == {"1_0", "2_0", "2_1", "3_0", "3_1", "3_2"}
    _, _, summary, classes = CASES[name]
    own = metrics["1_0"][name]
    for part, expected in (("summary", summary), ("classes", classes)):
        for metric, value in expected.items():
            assert own[part][metric] == pytest.approx(value, abs=1e-6, nan_ok=True), metric
    assert len({json.dumps(each[name]) for each in metrics.values()}) == 1
