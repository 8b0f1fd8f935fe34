"""The published detectors against mmdet's outputs (tests/golden, recorded with mmdet 3.3.0 on CPU)."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lk_downstream.detectors import FCOS, CascadeMaskRCNN, MaskRCNN, to_original
from lk_downstream.detectors.models import CASCADE_MASK_ROI, CASCADE_RPN, MASK_ROI, MASK_RPN

GOLDEN = Path(__file__).parents[1] / "golden"
spec = importlib.util.spec_from_file_location("deterministic_weights", GOLDEN / "deterministic_weights.py")
weights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(weights)

# The cascade has twelve batch-normed convolutions over 2000 regions of an image, 4000 in training: a minute and more.
FULL = bool(os.environ.get("LK_FULL_GRADIENTS"))


class FixedMaps(nn.Module):
    """The maps that the golden files have in place of a backbone's."""

    strides = (4, 8, 16, 32)

    def __init__(self, data):
        super().__init__()
        self.channels = tuple(data["dims"].tolist())
        height, width = int(data["height"]) // 4, int(data["width"]) // 4
        self.maps = [
            torch.from_numpy(weights._normal(f"feature{i}", (2, c, height >> i, width >> i))).relu()
            for i, c in enumerate(self.channels)
        ]

    def forward(self, images):
        return self.maps


def undrawn(settings, **changes):
    """Settings with a sampler that takes all samples, so that nothing is drawn at random."""
    return replace(settings, sampler=replace(settings.sampler, number=10**6), **changes)


# The recording declared both images padded to the batch's size (mmdet's `pad_shape`), where training declares each
# image's own, a multiple of 32. It matters where anchors may cross the border, in Mask R-CNN.
BUILD = {
    "fcos": lambda backbone: FCOS(backbone),
    "mask_rcnn": lambda backbone: MaskRCNN(backbone, rpn=undrawn(MASK_RPN, pad_divisor=256), roi=undrawn(MASK_ROI)),
    "cascade_mask_rcnn": lambda backbone: CascadeMaskRCNN(
        backbone, rpn=undrawn(CASCADE_RPN), roi=undrawn(CASCADE_MASK_ROI)
    ),
}


@pytest.fixture(scope="module", params=list(BUILD))
def golden(request):
    data = np.load(GOLDEN / f"{request.param}.npz")
    detector = BUILD[request.param](FixedMaps(data))
    shapes = weights.golden_shapes(GOLDEN / f"{request.param}.npz")
    state = {key: torch.from_numpy(np.asarray(weights.fill(key, shape))) for key, shape in shapes.items()}
    for key, factor in json.loads(str(data["weight_scales"])).items():
        state[key] *= factor
    assert {key: tuple(value.shape) for key, value in detector.state_dict().items()} == shapes
    detector.load_state_dict(state, strict=True)
    images = torch.zeros(2, 3, int(data["height"]), int(data["width"]))
    sizes = torch.stack([torch.from_numpy(data[f"image{i}_size"]) for i in range(2)])
    return data, detector, images, sizes


def unpack(data, name):
    shape = data[f"{name}_shape"]
    return np.unpackbits(data[name])[: shape.prod()].reshape(shape)


def only_those_that_count(propose):
    """Regions that detections come from, by their boxes in a file, and every tenth of the others.

    A region is scored and refined by itself, and one without a detection changes no other's: that none comes from the
    left out ones is seen with LK_FULL_GRADIENTS, and their scores are in the losses.
    """
    with np.load(GOLDEN / "cascade_mask_rcnn_regions.npz") as file:
        needed = [torch.from_numpy(file[f"image{i}"]) for i in range(2)]

    def run(maps, sizes):
        proposals, losses = propose(maps, sizes)
        assert [len(boxes) for boxes in proposals] == [1000, 932]
        chosen = []
        for boxes, some in zip(proposals, needed):
            distance = torch.cdist(boxes, some, float("inf"))
            assert distance.amin(0).max() < 1e-2
            chosen.append(boxes[(distance.amin(1) < 1e-2) | (torch.arange(len(boxes)) % 10 == 0)])
        return chosen, losses

    return run


def test_detections(golden, monkeypatch):
    data, detector, images, sizes = golden
    if isinstance(detector, CascadeMaskRCNN) and not FULL:
        monkeypatch.setattr(detector.rpn_head, "propose", only_those_that_count(detector.rpn_head.propose))
    for i, found in enumerate(detector.eval().predict(images, sizes)):
        found = to_original(found, tuple(data[f"image{i}_original_size"].tolist()), float(data[f"image{i}_scale"]))
        assert found["labels"].tolist() == data[f"image{i}_labels"].tolist()
        assert np.abs(found["boxes"].numpy() - data[f"image{i}_boxes"]).max() < 1e-3
        assert np.abs(found["scores"].numpy() - data[f"image{i}_scores"]).max() < 1e-5
        assert ("masks" in found) == (f"image{i}_masks" in data)
        if "masks" in found:
            masks = unpack(data, f"image{i}_masks")
            assert (found["masks"].numpy() != masks).sum() <= 1e-3 * masks.sum()


def test_losses_and_gradients(golden):
    data, detector, images, sizes = golden
    targets = [
        {
            "boxes": torch.from_numpy(data[f"image{i}_gt_boxes"]),
            "labels": torch.from_numpy(data[f"image{i}_gt_labels"]),
            # as a batch has them: padded, here with ones that must not count
            "masks": torch.nn.functional.pad(
                torch.from_numpy(unpack(data, f"image{i}_gt_masks")),
                (0, images.shape[3] - int(sizes[i, 1]), 0, images.shape[2] - int(sizes[i, 0])),
                value=1,
            ),
        }
        for i in range(2)
    ]
    state = {key: value.clone() for key, value in detector.state_dict().items() if "running" in key or "tracked" in key}
    losses = detector.train()(images, sizes, targets)

    golden_losses = json.loads(str(data["losses"]))
    assert set(losses) == {name for name in golden_losses if "loss" in name and name != "loss"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(golden_losses[name], rel=1e-4), name
    assert sum(losses.values()).item() == pytest.approx(golden_losses["loss"], rel=1e-4)

    norms = json.loads(str(data["gradient_norms"]))
    parameters = dict(detector.named_parameters())
    assert set(parameters) == set(norms)
    if "roi_head.bbox_head.0.fc_cls.weight" in parameters and not FULL:
        # what lies behind the cascade's convolutions costs a minute; Mask R-CNN's file has the rest of the path
        parameters = {k: v for k, v in parameters.items() if "shared_convs" not in k and not k.startswith("neck")}
    gradients = torch.autograd.grad(sum(losses.values()), list(parameters.values()))
    detector.load_state_dict(state, strict=False)  # batch norms have moved: the fixture is shared
    for name, gradient in zip(parameters, gradients):
        assert gradient.double().norm().item() == pytest.approx(norms[name], rel=1e-3, abs=1e-9), name
