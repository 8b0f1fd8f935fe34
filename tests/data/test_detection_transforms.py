"""The detectors' augmentation: geometry of images, boxes and masks together."""

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lk_downstream.data.detection_transforms import (
    KeepVisible,
    LargeScaleJitter,
    MultiScale,
    MultiScaleCrop,
    ResizeToFit,
    crop_item,
    resize_item,
    resize_masks,
    training_transform,
)
from lk_downstream.errors import InputError


def item(height=240, width=320, boxes=((40, 60, 120, 160), (200, 20, 319, 100), (0, 200, 30, 240))):
    """An image in which each object is a bright rectangle that fills its box and its mask."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
        image[:, y1:y2, x1:x2] = 200
    target = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor(boxes).reshape(-1, 4).float(), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.arange(len(boxes)),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.bool),
        "masks": tv_tensors.Mask(masks),
        "image_id": 7,
        "original_size": torch.tensor([height, width]),
    }
    return {"image": tv_tensors.Image(image), "target": target, "name": "a"}


def extents(masks):
    """The boxes that just hold the masks."""
    boxes = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(boxes).reshape(-1, 4).float()


def check(result, tolerance=1.0):
    """Boxes, masks and image agree, and everything has as many rows."""
    target = result["target"]
    height, width = result["image"].shape[-2:]
    assert target["masks"].shape == (len(target["boxes"]), height, width)
    assert len(target["labels"]) == len(target["iscrowd"]) == len(target["boxes"])
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(target["masks"], tv_tensors.Mask)
    assert target["boxes"].canvas_size == (height, width)
    assert target["image_id"] == 7
    seen = target["masks"].flatten(1).any(1)  # an object of a fraction of a pixel may have no mask pixel
    assert (target["boxes"][seen] - extents(target["masks"][seen])).abs().max().item() <= tolerance if seen.any() else 1
    for mask in target["masks"][seen]:
        assert result["image"][0][mask.bool()].float().mean() > 150
    return target


def test_resize_to_fit_has_the_papers_size():
    result = ResizeToFit((1333, 800))(item(480, 640, ()))
    assert result["image"].shape == (3, 800, 1067)  # int(x * s + .5), not 1066
    result = ResizeToFit((1333, 800))(item(300, 900, ()))
    assert result["image"].shape == (3, 444, 1333)


@pytest.mark.parametrize("size", [(480, 640), (100, 123), (240, 320)])
def test_resize_moves_boxes_and_masks_alike(size):
    before = item()
    target = check(resize_item(before, size), tolerance=0.6)
    factors = torch.tensor([size[1] / 320, size[0] / 240] * 2)
    torch.testing.assert_close(
        target["boxes"].as_subclass(torch.Tensor), before["target"]["boxes"].as_subclass(torch.Tensor) * factors
    )
    assert before["image"].shape[-2:] == (240, 320)


def test_crop_clips_boxes_and_takes_hidden_objects_away():
    target = check(KeepVisible()(crop_item(item(), 50, 100, 100, 150)))
    assert target["boxes"].tolist() == [[0, 10, 20, 100], [100, 0, 150, 50]]
    assert target["labels"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "step", [MultiScale(), MultiScaleCrop(), LargeScaleJitter(300), LargeScaleJitter(200, (1.5, 2.0)), None]
)
def test_pipelines_keep_image_boxes_and_masks_together(step):
    torch.manual_seed(0)
    transform = training_transform(None if step is None else [step])
    lost = 0
    for _ in range(25):
        target = check(transform(item()), tolerance=2.0)
        lost += 3 - len(target["boxes"])
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
    assert (lost > 0) == (not isinstance(step, MultiScale))


def test_multi_scale_draws_every_length():
    torch.manual_seed(0)
    short = {min(MultiScale()(item(48, 64, ()))["image"].shape[-2:]) for _ in range(150)}
    assert short == set(range(480, 801, 32))
    assert {min(MultiScale([640, 800])(item(48, 64, ()))["image"].shape[-2:]) for _ in range(20)} == {640, 800}
    assert MultiScale([800])(item(48, 96, ()))["image"].shape[-2:] == (667, 1333)


def test_multi_scale_crop_follows_both_policies(monkeypatch):
    torch.manual_seed(0)
    crops, first = [], []
    step = MultiScaleCrop()
    monkeypatch.setattr(step.first, "forward", lambda x: (first.append(1), MultiScale((400, 500, 600))(x))[1])
    original = crop_item
    monkeypatch.setattr(
        "lk_downstream.data.detection_transforms.crop_item",
        lambda x, *part: (crops.append((x["image"].shape[-2:], part)), original(x, *part))[1],
    )
    for _ in range(60):
        step(item(48, 64, ()))
    assert 20 <= len(crops) == len(first) <= 40
    for (rows, columns), (top, left, height, width) in crops:
        assert min(rows, 384) <= height <= min(rows, 600)
        assert min(columns, 384) <= width <= min(columns, 600)
        assert 0 <= top <= rows - height
        assert 0 <= left <= columns - width
    assert {min(size) for size, _ in crops} == {400, 500, 600}


def test_large_scale_jitter_zooms_both_ways():
    torch.manual_seed(0)
    sides = [max(LargeScaleJitter(128)(item())["image"].shape[-2:]) for _ in range(40)]
    assert max(sides) == 128
    assert min(sides) < 60


def test_images_without_objects_and_flip():
    empty = training_transform([MultiScale([48])])(item(24, 32, ()))
    check(empty)
    assert empty["target"]["boxes"].shape == (0, 4)
    flipped = check(training_transform([], flip=1.0)(item()))
    assert flipped["boxes"].tolist()[0] == [200, 60, 280, 160]


def test_torchvisions_own_steps_fit_in():
    torch.manual_seed(0)
    steps = [v2.RandomPhotometricDistort(p=1.0), v2.RandomVerticalFlip(1.0), v2.RandomZoomOut(p=1.0)]
    result = training_transform(steps)(item())
    target = check(result)
    assert target["labels"].tolist() == [0, 1, 2]
    assert not torch.equal(result["image"].unique(), torch.tensor([0, 200], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("step", "options", "sentence"),
    [
        (MultiScale, {"short": []}, "short is"),
        (MultiScale, {"short": [0, 5]}, "short is"),
        (MultiScaleCrop, {"crop": (600, 384)}, "crop is"),
        (LargeScaleJitter, {"size": 0}, "size is 0"),
        (LargeScaleJitter, {"factors": (2.0, 0.1)}, "factors are"),
    ],
)
def test_impossible_sizes_are_refused_at_once(step, options, sentence):
    with pytest.raises(InputError, match=sentence):
        step(**options)


@pytest.mark.parametrize("old", [(3, 7), (48, 64), (333, 500), (427, 640), (1024, 2048)])
def test_masks_are_resized_as_by_pytorch(old):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (3, *old), generator=generator).to(torch.uint8)
    for _ in range(12):
        size = tuple(torch.randint(1, 900, (2,), generator=generator).tolist())
        expected = torch.nn.functional.interpolate(masks[None], size, mode="nearest-exact")[0]
        assert torch.equal(resize_masks(masks, size), expected), size
    assert resize_masks(masks[:0], (5, 9)).shape == (0, 5, 9)
