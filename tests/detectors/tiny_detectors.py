"""Detectors narrow enough to be tested in a second, and what they are fed with."""

import inspect
from dataclasses import replace

import torch
from torch import nn

from lk_downstream import detectors as d


class TinyBackbone(nn.Module):
    """Four maps of strides 4 to 32, as an extractor gives them."""

    strides = (4, 8, 16, 32)

    def __init__(self, channels=(4, 6, 8, 10)):
        super().__init__()
        self.channels = tuple(channels)
        width = (3, *channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in zip(width, width[1:], (4, 2, 2, 2))
        )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        return maps


def narrow(cls, classes=3, backbone=None, **changes):
    """A detector of class `cls` with its own recipe but few channels; `changes` are of rpn, roi, head or neck."""
    parts = {
        "neck": {"channels": 8},
        "rpn": {"sampler": {"number": 32}, "train": {"keep": 40}, "test": {"keep": 40}},
        "roi": {
            "box": {"conv_channels": 8, "fc_channels": 16},
            "mask": {"channels": 8},
            "sampler": {"number": 32},
        },
        "head": {"channels": 8},
    }
    parameters = inspect.signature(cls).parameters
    settings = {}
    for name in parts.keys() & parameters.keys():
        value = parameters[name].default
        for part, widths in parts[name].items():
            inner = replace(getattr(value, part), **widths) if isinstance(widths, dict) else widths
            value = replace(value, **{part: inner})
        settings[name] = replace(value, **changes.get(name, {}))
    return cls(backbone or TinyBackbone(), classes, **settings)


TWO_STAGE = (d.FasterRCNN, d.MaskRCNN, d.CascadeRCNN, d.CascadeMaskRCNN)
ONE_STAGE = (d.FCOS, d.RetinaNet)
ALL = TWO_STAGE + ONE_STAGE


def box_target(boxes, height=64, width=64, labels=None, **more):
    """One image's target with masks that fill the boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().clamp(min=0).tolist()):
        mask[y1:y2, x1:x2] = 1
    labels = torch.arange(len(boxes)) % 3 if labels is None else torch.tensor(labels)
    return {"boxes": boxes, "labels": labels, "masks": masks, **more}
