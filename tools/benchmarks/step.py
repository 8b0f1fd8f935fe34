"""Training steps and predicted images: UPerNet against mmsegmentation's, Mask R-CNN against torchvision's.

Both segmentors have the same backbone, heads, images and loss. Both detectors have the same backbone, 1000 proposals,
512 sampled regions in training and 100 detections with masks pasted into the image in prediction. RoIAlign differs:
this package's takes as many samples of a cell as it has pixels, as mmdetection's, torchvision's takes 2 x 2
(``--sampling 0`` makes it adaptive too).
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks import models
from benchmarks.sides import OURS, Race, alternate, peak, shares
from lk_downstream import create_backbone
from lk_downstream.data.classes import ADE20K_CLASSES
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.ops import accelerate
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks import Segmentation
from lk_downstream.tasks.memory_order import arrange

ROUNDS = 5
CLASSES = 80
AUTHORS = "mmsegmentation, large kernels by F.conv2d"  # as the backbones' authors have them
ADAMW = partial(torch.optim.AdamW, lr=1e-4)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=("upernet", "mask_rcnn"), default=("upernet", "mask_rcnn"))
    parser.add_argument("--segmentor", default="convnext_tiny", help="backbone of UPerNet")
    parser.add_argument("--authors", action="store_true", help=f"add the side: {AUTHORS}")
    parser.add_argument("--crop", type=int, default=512, help="side of its images")
    parser.add_argument("--detector", default="resnet50", help="backbone of Mask R-CNN")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 512), help="height and width of its images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sampling", type=int, default=2, help="of torchvision's RoIAlign; 0: adaptive, as here")
    parser.add_argument("--threads", type=int, default=1)


def races(options: argparse.Namespace) -> Iterator[Race]:
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    if "upernet" in options.models:
        yield from segmentors(options)
    if "mask_rcnn" in options.models:
        yield from detectors(options)
    torch.set_num_threads(threads)


def segmentors(options: argparse.Namespace) -> Iterator[Race]:
    """A step of UPerNet with its auxiliary head: forward, loss, backward, AdamW; and what its tensors need."""
    task, own = own_step(options.segmentor, options.batch, options.crop)
    sides = {}
    for name in ("mmsegmentation", AUTHORS)[: 1 + options.authors]:
        other = models.mmsegmentation(task.backbone, len(task.classes), options.crop).train()
        if name == AUTHORS:
            accelerate(other, "contiguous")
        loss = partial(_mmseg_loss, other, *_scenes(options.batch, options.crop))
        sides[name] = partial(_step, ADAMW(other.parameters()), loss)
    sides[OURS] = own
    conditions = f"{options.segmentor}, {options.batch} images of {options.crop} x {options.crop}, {_threads(options)}"
    yield Race("UPerNet training step", conditions, "s", shares(alternate(sides, options.rounds), 1))
    memory = {name: [peak(run) / 2**30] for name, run in sides.items()}
    yield Race("UPerNet training step, memory of tensors", conditions, "GiB", memory)


def own_step(backbone: str, batch: int, size: int) -> tuple[Segmentation, Callable[[], None]]:
    """UPerNet as a task, and a step of it with AdamW on ``batch`` images of ``size`` x ``size``."""
    task = Segmentation(create_backbone(backbone), tuple(ADE20K_CLASSES), UPerHead, FCNHead).train()
    images, masks = _scenes(batch, size)
    arrange(task, torch.device("cpu"), training=True)  # as its setup does
    given = {"image": images, "mask": masks, "size": torch.tensor([[size] * 2] * batch)}
    return task, partial(_step, ParameterGroups().optimizer(task, ADAMW), lambda: task.training_step(given, 0))


def _scenes(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, len(ADE20K_CLASSES), (batch, size, size), dtype=torch.uint8, generator=generator)
    return images, masks


def _mmseg_loss(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(gt_sem_seg=PixelData(data=mask[None].long())) for mask in masks]
    data = model.data_preprocessor({"inputs": list(images), "data_samples": samples}, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    return sum(value for name, value in losses.items() if "loss" in name)


class _Pyramid(nn.Module):
    """The extractor with torchvision's feature pyramid, as its detectors want it."""

    def __init__(self, backbone: nn.Module):
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        super().__init__()
        self.backbone, self.out_channels = backbone, 256
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), 256, LastLevelMaxPool())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels of the pyramid by name."""
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.backbone(x))))


def _own_detector(name: str) -> nn.Module:
    from lk_downstream.detectors import MaskRCNN, Selection
    from lk_downstream.detectors.models import MASK_ROI, MASK_RPN

    proposals = Selection(1000, 0.7, 0.0, per_level=1000)
    rpn = replace(MASK_RPN, train=proposals, test=proposals)
    roi = replace(MASK_ROI, test=Selection(score_threshold=0.0))
    return MaskRCNN(create_backbone(name), CLASSES, rpn=rpn, roi=roi)


def _torchvisions(name: str, size: tuple[int, int], sampling: int) -> nn.Module:
    from torchvision.models.detection import MaskRCNN
    from torchvision.ops import MultiScaleRoIAlign

    backbone = create_backbone(name)
    levels = ["0", "1", "2", "3"]
    return MaskRCNN(
        _Pyramid(backbone),
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


def detectors(options: argparse.Namespace) -> Iterator[Race]:
    """A step, and the prediction of an image."""
    from lk_downstream.detectors import to_original

    size, count = tuple(options.size), options.batch
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *size, generator=generator)
    targets = [_scene(size, 7, generator) for _ in range(count)]
    theirs_targets = [{**target, "labels": target["labels"] + 1} for target in targets]  # 0 is their background
    torch.manual_seed(0)
    own, other = _own_detector(options.detector), _torchvisions(options.detector, size, options.sampling)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (own.backbone.mean, own.backbone.std))

    @torch.no_grad()
    def predict_own() -> None:
        own.eval()
        for image in images:
            (found,) = own((image[None] - mean) / std, [size])
            assert len(to_original(found, size, 1.0)["masks"]) == 100, "both sides must have the same work"

    @torch.no_grad()
    def predict_other() -> None:
        other.eval()
        for image in images:
            assert len(other([image])[0]["masks"]) == 100, "both sides must have the same work"

    def total(model: nn.Module, *inputs: object) -> torch.Tensor:
        return sum(model.train()(*inputs).values())

    steps = {
        "torchvision": partial(_step, ADAMW(other.parameters()), lambda: total(other, list(images), theirs_targets)),
        OURS: partial(
            _step,
            ParameterGroups().optimizer(own, ADAMW),
            lambda: total(own, (images - mean) / std, [size] * count, targets),
        ),
    }
    conditions = f"{options.detector}, {count} images of {size[1]} x {size[0]}, {_threads(options)}"
    yield Race("Mask R-CNN training step", conditions, "s", shares(alternate(steps, options.rounds), 1))
    sides = {"torchvision": predict_other, OURS: predict_own}
    yield Race("Mask R-CNN predicted image", conditions, "s", shares(alternate(sides, options.rounds), count))


def _scene(size: tuple[int, int], objects: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Rectangles with their masks."""
    height, width = size
    low = torch.rand(objects, 2, generator=generator) * torch.tensor([width * 0.7, height * 0.7])
    sides = 8 + torch.rand(objects, 2, generator=generator) * torch.tensor([width * 0.25, height * 0.25])
    boxes = torch.cat((low, low + sides), dim=1).round()
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.randint(0, CLASSES, (objects,), generator=generator), "masks": masks}


def _step(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def _threads(options: argparse.Namespace) -> str:
    return f"{options.threads} thread{'s' * (options.threads > 1)}, processor time"
