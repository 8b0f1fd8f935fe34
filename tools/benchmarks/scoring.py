"""COCO's average precision of boxes, against pycocotools and torchmetrics."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.sides import OURS, Race, alternate, shares
from lk_downstream.metrics import CocoEvaluator

ROUNDS = 3
CLASSES = 80


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=100, help="of each image")


def races(options: argparse.Namespace) -> Iterator[Race]:
    from torchmetrics.detection import MeanAveragePrecision

    torch.set_num_threads(1)
    content, predictions, truths = results(options.images, options.detections)
    answers: dict[str, float] = {}

    def own(backend: str) -> None:
        evaluator = CocoEvaluator(content, backend=backend)
        evaluator.update(range(options.images), predictions)
        answers[backend] = evaluator.compute()["bbox_AP"]

    def torchmetrics() -> None:
        metric = MeanAveragePrecision()
        metric.update(predictions, truths)
        answers["torchmetrics"] = metric.compute()["map"].item()

    sides = {
        "pycocotools": lambda: own("pycocotools"),
        "torchmetrics": torchmetrics,
        OURS: lambda: own("vectorized"),
    }
    seconds = alternate(sides, options.rounds)
    assert abs(answers.pop("torchmetrics") - answers["pycocotools"]) < 1e-3, "it rounds boxes to float32"
    assert len(set(answers.values())) == 1, answers
    conditions = f"{options.images} images, {options.detections} boxes each, {CLASSES} classes, processor time"
    yield Race("detection scoring", conditions, "s", shares(seconds, 1))


def results(images: int, detections: int) -> tuple[dict, list[dict], list[dict]]:
    """Annotations of about 7 objects an image, detections near and beside them, and the truth in tensors."""
    random = np.random.RandomState(0)
    content = {
        "images": [{"id": i, "height": 480, "width": 640, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": i, "name": str(i)} for i in range(CLASSES)],
        "annotations": [],
    }
    predictions, truths = [], []
    for image in range(images):
        count = random.randint(0, 15)
        sides = np.exp(random.uniform(np.log(10), np.log(300), (count, 2)))
        low = random.rand(count, 2) * ([640, 480] - sides)
        labels = np.where(random.rand(count) < 0.5, 0, random.randint(0, CLASSES, count))
        objects = np.concatenate((low, low + sides), axis=1)
        for label, side, corner in zip(labels, sides, low):
            row = {"id": len(content["annotations"]) + 1, "image_id": image, "category_id": int(label), "iscrowd": 0}
            content["annotations"].append({**row, "bbox": [*corner, *side], "area": float(side.prod())})
        near = random.randint(0, count, detections // 2) if count else np.zeros(0, int)
        moved = objects[near] + random.randn(len(near), 4) * 0.08 * np.tile(sides[near], 2)
        extent = np.exp(random.uniform(np.log(10), np.log(300), (detections - len(near), 2)))
        corner = random.rand(len(extent), 2) * ([640, 480] - extent)
        boxes = np.concatenate((moved, np.concatenate((corner, corner + extent), axis=1)))
        found = np.concatenate((labels[near], random.randint(0, CLASSES, len(extent))))
        scores = torch.from_numpy(random.rand(detections).astype(np.float32))
        boxes = torch.tensor(boxes, dtype=torch.float32)
        predictions.append({"boxes": boxes, "labels": torch.tensor(found), "scores": scores})
        truth = torch.tensor(objects, dtype=torch.float32).reshape(-1, 4)
        truths.append({"boxes": truth, "labels": torch.tensor(labels)})
    return content, predictions, truths
