"""Mask R-CNN against torchvision's, and the COCO evaluation against torchmetrics', each pair in one run.

Both detectors have the same backbone (an object of its own for each), the same input, 1000 proposals, 512 sampled
regions in training and 100 detections with masks pasted into the image in prediction. RoIAlign differs: this
package's takes as many samples of a cell as it has pixels, as mmdetection's, torchvision's takes 2 x 2
(``--sampling 0`` makes it adaptive too). Times are those of the processor, medians of alternating rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lk_downstream import create_backbone
from lk_downstream.detectors import MaskRCNN, Selection, to_original
from lk_downstream.detectors.models import MASK_ROI, MASK_RPN
from lk_downstream.metrics import CocoEvaluator

CLASSES = 80


class Pyramid(nn.Module):
    """The extractor with torchvision's feature pyramid, as its detectors want it."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.out_channels = backbone, 256
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), 256, LastLevelMaxPool())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels of the pyramid by name."""
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.backbone(x))))


def ours(name: str) -> nn.Module:
    proposals = Selection(1000, 0.7, 0.0, per_level=1000)
    return MaskRCNN(
        create_backbone(name),
        CLASSES,
        rpn=replace(MASK_RPN, train=proposals, test=proposals),
        roi=replace(MASK_ROI, test=Selection(score_threshold=0.0)),
    )


def torchvisions(name: str, size: tuple[int, int], sampling: int) -> nn.Module:
    backbone = create_backbone(name)
    levels = ["0", "1", "2", "3"]
    return TorchvisionMaskRCNN(
        Pyramid(backbone),
        CLASSES + 1,
        min_size=min(size),
        max_size=max(size),
        image_mean=backbone.mean,
        image_std=backbone.std,
        **{f"rpn_{when}_nms_top_n_{mode}": 1000 for when in ("pre", "post") for mode in ("train", "test")},
        box_roi_pool=MultiScaleRoIAlign(levels, 7, sampling),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, sampling),
        box_score_thresh=0.0,
    )


def scene(size: tuple[int, int], objects: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rectangles with their masks."""
    height, width = size
    low = torch.rand(objects, 2, generator=generator) * torch.tensor([width * 0.7, height * 0.7])
    sides = 8 + torch.rand(objects, 2, generator=generator) * torch.tensor([width * 0.25, height * 0.25])
    boxes = torch.cat((low, low + sides), dim=1).round()
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.randint(0, CLASSES, (objects,), generator=generator), "masks": masks}


def detector_jobs(options: argparse.Namespace) -> dict[str, dict[str, Callable[[], object]]]:
    size, count = tuple(options.size), options.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *size, generator=generator)
    targets = [scene(size, 7, generator) for _ in range(count)]
    theirs_targets = [{**target, "labels": target["labels"] + 1} for target in targets]  # 0 is their background
    torch.manual_seed(0)
    own, other = ours(options.backbone), torchvisions(options.backbone, size, options.sampling)
    optimizers = {id(model): torch.optim.SGD(model.parameters(), lr=1e-4) for model in (own, other)}
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (own.backbone.mean, own.backbone.std))

    def train(model: nn.Module, losses: Callable[[], dict[str, torch.Tensor]]) -> None:
        model.train()
        optimizers[id(model)].zero_grad()
        sum(losses().values()).backward()
        optimizers[id(model)].step()

    @torch.no_grad()
    def predict_own() -> None:
        own.eval()
        for image in images:
            (found,) = own((image[None] - mean) / std, [size])
            result = to_original(found, size, 1.0)
            assert len(result["masks"]) == 100, "both sides must have the same work"

    @torch.no_grad()
    def predict_other() -> None:
        other.eval()
        for image in images:
            (found,) = other([image])
            assert len(found["masks"]) == 100, "both sides must have the same work"

    return {
        "training step": {
            "torchvision": lambda: train(other, lambda: other(list(images), theirs_targets)),
            "lk_downstream": lambda: train(own, lambda: own((images - mean) / std, [size] * count, targets)),
        },
        "predicted image": {"torchvision": predict_other, "lk_downstream": predict_own},
    }


def results(images: int, detections: int = 100) -> tuple[dict, list[dict], list[dict]]:
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
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": int(label),
                    "bbox": [*corner, *side],
                    "area": float(side.prod()),
                    "iscrowd": 0,
                }
            )
        near = random.randint(0, count, detections // 2) if count else np.zeros(0, int)
        moved = objects[near] + random.randn(len(near), 4) * 0.08 * np.tile(sides[near], 2)
        extent = np.exp(random.uniform(np.log(10), np.log(300), (detections - len(near), 2)))
        corner = random.rand(len(extent), 2) * ([640, 480] - extent)
        boxes = np.concatenate((moved, np.concatenate((corner, corner + extent), axis=1)))
        found = np.concatenate((labels[near], random.randint(0, CLASSES, len(extent))))
        predictions.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "labels": torch.tensor(found),
                "scores": torch.from_numpy(random.rand(detections).astype(np.float32)),
            }
        )
        truths.append(
            {"boxes": torch.tensor(objects, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels)}
        )
    return content, predictions, truths


def evaluation_jobs(options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    content, predictions, truths = results(options.images)
    evaluator = CocoEvaluator(content)

    def own() -> float:
        evaluator.reset()
        for start in range(options.images):
            evaluator.update([start], predictions[start : start + 1])
        return evaluator.compute()["bbox_AP"]

    def other() -> float:
        metric = MeanAveragePrecision()
        for start in range(options.images):
            metric.update(predictions[start : start + 1], truths[start : start + 1])
        return metric.compute()["map"].item()

    return {"torchmetrics": other, "lk_downstream": own}


def compare(what: str, jobs: dict[str, Callable[[], object]], rounds: int, parts: int = 1) -> dict[str, object]:
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    answers = {}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = time.process_time()
            answers[name] = job()
            if number or rounds == 1:  # the first round warms up
                seconds[name].append((time.process_time() - start) / parts)
    for name, values in seconds.items():
        print(f"{what:18s} {name:14s} {statistics.median(values):8.3f} s ({min(values):.3f} to {max(values):.3f})")
    theirs, mine = (statistics.median(values) for values in seconds.values())
    print(f"{what:18s} ratio {theirs / mine:.2f}")
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 512), help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sampling", type=int, default=2, help="of torchvision's RoIAlign; 0: adaptive, as here")
    parser.add_argument("--images", type=int, default=1000, help="images of the evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("detector", "evaluation"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only != "evaluation":
        print(
            f"{options.backbone}, {options.batch_size} images of {options.size[1]} x {options.size[0]}, "
            f"{options.threads} thread(s), RoIAlign: torchvision {options.sampling}, lk_downstream adaptive"
        )
        for what, jobs in detector_jobs(options).items():
            compare(what, jobs, options.rounds, 1 if what == "training step" else options.batch_size)
    if options.only != "detector":
        print(f"box AP of {options.images} images with 100 detections each, {CLASSES} classes")
        answers = compare("evaluation", evaluation_jobs(options), 2)
        print(f"AP {answers}")


if __name__ == "__main__":
    main()
