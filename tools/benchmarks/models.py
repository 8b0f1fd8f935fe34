"""Models with random, seeded weights whose outputs are spread over classes, scores and sizes, as of trained ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lk_downstream import create_backbone, create_classifier
from lk_downstream.data.classes import ADE20K_CLASSES
from lk_downstream.detectors import CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Slide, Whole
from lk_downstream.tasks import Classification, Detection, Segmentation, Task

GAINS = {"reg": 0.1, "cls": 0.25}  # of the last layers of detectors; boxes else reach far out of the image
OBJECTS = tuple(f"object {number}" for number in range(80))
DETECTORS = {
    "retinanet": RetinaNet,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
    "cascade_rcnn": CascadeRCNN,
}


def upernet(
    name: str, rule: Whole | Slide, classes: tuple[str, ...] = tuple(ADE20K_CLASSES), channels: int = 512
) -> Segmentation:
    """UPerNet without auxiliary head."""
    return _made(
        lambda: Segmentation(create_backbone(name), classes, partial(UPerHead, channels=channels), None, inference=rule)
    )


def detector(kind: str, name: str, scale: tuple[int, int]) -> Detection:
    """One of ``DETECTORS``, whose images fit into ``scale``."""
    task = _made(lambda: Detection(create_backbone(name), DETECTORS[kind], OBJECTS))
    task.preparation = {"scale": list(scale)}
    return task


def classifier(name: str, size: int) -> Classification:
    """Of images of ``size`` pixels a side."""
    task = _made(lambda: Classification(create_classifier(name, num_classes=1000), tuple(map(str, range(1000)))))
    task.preparation = {"size": size, "crop": 0.875}
    return task


def _made(make: Callable[[], Task]) -> Task:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        task = make()
        _spread(task)
        update_bn([torch.randn(2, 3, 128, 128)], task.backbone)  # else signals grow from layer to layer
    return task.eval()


def _spread(task: nn.Module) -> None:
    for name, value in task.state_dict().items():
        if value.ndim == 1:
            value.add_(0.3 * torch.randn(value.shape))
        elif value.ndim > 1 and not name.startswith("backbone."):
            gain = next((gain for part, gain in GAINS.items() if f"_{part}." in name), 1.0)
            value.copy_(gain * torch.randn(value.shape) * math.sqrt(2 / value[0].numel()))
        if name.endswith("running_var"):
            value.abs_().add_(0.5)


def mmsegmentation(backbone: nn.Module, classes: int, size: int, channels: int = 512) -> nn.Module:
    """UPerNet with its auxiliary head, as mmsegmentation has it, around a copy of a backbone, for crops of ``size``."""
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    from mmseg.models import EncoderDecoder, SegDataPreProcessor
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    widths = list(backbone.channels)
    common = {"norm_cfg": {"type": "BN"}, "num_classes": classes, "align_corners": False, "dropout_ratio": 0.1}
    loss = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    head = {"in_channels": widths, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6), "channels": channels}
    auxiliary = {"in_channels": widths[2], "in_index": 2, "channels": 256, "num_convs": 1, "concat_input": False}
    given = copy.deepcopy(backbone)
    MODELS.register_module(name="GivenBackbone", module=lambda: given, force=True)
    return EncoderDecoder(
        backbone={"type": "GivenBackbone"},
        decode_head={"type": "UPerHead", **head, **common, "loss_decode": {**loss, "loss_weight": 1.0}},
        auxiliary_head={"type": "FCNHead", **auxiliary, **common, "loss_decode": {**loss, "loss_weight": 0.4}},
        data_preprocessor=SegDataPreProcessor(list(given.mean), list(given.std), size=(size, size)),
        train_cfg={},
        test_cfg=ConfigDict(mode="whole"),
    )
