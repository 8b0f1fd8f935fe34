"""Small models of every task whose predictions are spread over scores, sizes and classes."""

import functools
import math

import torch

from lk_downstream import create_backbone, create_classifier
from lk_downstream.detectors import (
    FCOS,
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    FCOSSettings,
    FPNSettings,
    MaskRCNN,
    RetinaNet,
    RetinaSettings,
    Selection,
)
from lk_downstream.detectors.anchor_head import RPNSettings
from lk_downstream.detectors.bbox_head import BBoxHeadSettings
from lk_downstream.detectors.mask_head import MaskHeadSettings
from lk_downstream.detectors.models import CASCADE_MASK_ROI, CASCADE_ROI, FASTER_ROI, MASK_ROI
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Slide, Whole
from lk_downstream.tasks import Classification, Detection, MultiLabelClassification, Segmentation

SHALLOW = (1, 1, 1, 1)  # a trace takes as long as there are layers
CLASSES = ("a", "b", "c", "d")
SCALE = (224, 160)
BOX = BBoxHeadSettings(fcs=1, fc_channels=32, conv_channels=16)
RPN = RPNSettings(test=Selection(60, 0.7, 0.0, per_level=100))
MASK = MaskHeadSettings(convs=1, channels=8)
GAINS = {"fc_reg": 0.1, "fc_cls": 0.3, "rpn_reg": 0.1, "retina_reg": 0.1, "retina_cls": 0.5, "conv_cls": 0.5}
TWO_STAGE = {
    FasterRCNN: FASTER_ROI,
    MaskRCNN: MASK_ROI,
    CascadeRCNN: CASCADE_ROI,
    CascadeMaskRCNN: CASCADE_MASK_ROI,
}


def backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_backbone("test_replknet", layers=SHALLOW)


def _spread(model, seed=0):
    """Weights with which scores, shifts and sizes differ from point to point."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(1 + 0.5 * torch.rand(value.shape, generator=generator))
        elif value.ndim == 1:
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
        elif value.ndim > 1 and not name.startswith("backbone."):
            fan = value[0].numel()
            gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
            value.copy_(gain * torch.randn(value.shape, generator=generator) * math.sqrt(2 / fan))
    return model.eval()


def detection(kind, rule="pairs"):
    """A detection task with narrow parts."""
    test = Selection(keep=30, per_level=200, rule=rule)
    narrow = functools.partial(FPNSettings, channels=16)
    if kind is FCOS:
        neck = narrow(finest_stride=8, extra="output", extra_relu=True)
        made = functools.partial(FCOS, neck=neck, head=FCOSSettings(convs=1, channels=16, test=test))
    elif kind is RetinaNet:
        neck = narrow(finest_stride=8, extra="input")
        made = functools.partial(RetinaNet, neck=neck, head=RetinaSettings(convs=1, channels=16, test=test))
    else:
        from dataclasses import replace

        roi = replace(TWO_STAGE[kind], box=replace(BOX, convs=TWO_STAGE[kind].box.convs and 1), mask=MASK, test=test)
        made = functools.partial(kind, neck=narrow(), rpn=RPN, roi=roi)
    task = _spread(Detection(backbone(), made, CLASSES))
    if kind is FCOS:
        task.bbox_head.conv_reg.weight.data.mul_(0.1)
        task.bbox_head.conv_reg.bias.data.add_(3.0)
        task.bbox_head.conv_cls.bias.data.add_(4.0)
    task.preparation = {"scale": list(SCALE)}
    return task


def segmentation(rule="whole", classes=CLASSES, head=None):
    inference = {"whole": Whole(SCALE), "slide": Slide(96, 64, scale=SCALE), "as it is": Whole(None)}[rule]
    head = head or functools.partial(UPerHead, channels=16)
    return _spread(Segmentation(backbone(), classes, head=head, auxiliary_head=None, inference=inference))


def classification(multilabel=False):
    kind = MultiLabelClassification if multilabel else Classification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task = _spread(kind(create_classifier("test_replknet", num_classes=4, layers=SHALLOW), CLASSES))
    task.preparation = {"size": 64, "crop": 0.875}
    return task


def images(number, seed=0, batch=1):
    """Smooth noise of many sizes, uint8 (batch, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        height, width = torch.randint(60, 400, (2,), generator=generator).tolist()
        coarse = torch.rand(batch, 3, height // 16 + 2, width // 16 + 2, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        noise = 0.1 * torch.randn(batch, 3, height, width, generator=generator)
        yield ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)
