"""What is rare in COCO and common in one's own data must train: finite losses, a gradient for every parameter."""

import pytest
import torch
from tiny_detectors import ALL, TWO_STAGE, box_target, narrow

from lk_downstream.detectors import FCOS, CascadeMaskRCNN, MaskRCNN, RandomSampler, RPNSettings, Selection
from lk_downstream.errors import InputError

EMPTY = box_target([])
CASES = {
    "no objects": [EMPTY, EMPTY],
    "one image without objects": [box_target([[4, 4, 40, 50]]), EMPTY],
    "zero area": [box_target([[10, 10, 10, 30], [5, 5, 5, 5]]), box_target([[3, 3, 30, 3], [8, 8, 40, 40]])],
    "negative size": [box_target([[30, 30, 10, 10]]), EMPTY],
    "one pixel": [box_target([[10, 10, 11, 11]]), box_target([[0, 0, 1, 1], [63, 63, 64, 64]])],
    "only crowds": [box_target([[4, 4, 40, 50]], iscrowd=torch.tensor([1]))] * 2,
    "the whole image": [box_target([[0, 0, 64, 64]])] * 2,
    "many on one spot": [box_target([[8, 8, 40, 40]] * 20, labels=[0, 1] * 10)] * 2,
}


def check(detector, images, sizes, targets):
    """All losses finite, all parameters with a finite gradient; returns the losses."""
    losses = detector(images, sizes, targets)
    assert all(value.isfinite() for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in detector.buffers())
    return losses


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_degenerate_targets_train(cls, case):
    torch.manual_seed(0)
    detector = narrow(cls)
    losses = check(detector, torch.randn(2, 3, 64, 64), torch.tensor([[64, 64], [64, 64]]), CASES[case])
    if case in ("no objects", "only crowds", "negative size"):
        boxes = {name: value.item() for name, value in losses.items() if not name.endswith("cls")}
        assert all(value == 0 for value in boxes.values()), boxes


@pytest.mark.parametrize("objects", [EMPTY, box_target([[4, 4, 40, 50]])], ids=["no object", "an object"])
@pytest.mark.parametrize("cls", TWO_STAGE, ids=lambda cls: cls.__name__)
def test_no_proposals_train_and_predict(cls, objects):
    nothing = Selection(keep=0)
    detector = narrow(cls, rpn={"train": nothing, "test": nothing})
    images, sizes = torch.randn(2, 3, 64, 64), [(64, 64), (64, 64)]
    check(detector, images, sizes, [objects, EMPTY])
    for found in detector.eval().predict(images, sizes):
        assert found["boxes"].shape == (0, 4)
        assert len(found["scores"]) == len(found["labels"]) == 0
        if detector.masks:
            assert found["masks"].shape == (0, 28, 28)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_images_smaller_than_the_largest_stride(cls):
    torch.manual_seed(0)
    detector = narrow(cls)
    targets = [box_target([[0, 0, 1, 1]], 32, 32), box_target([[2, 3, 17, 9]], 32, 32)]
    check(detector, torch.randn(2, 3, 32, 32), [(1, 1), (9, 17)], targets)
    detector.zero_grad()
    check(detector, torch.randn(1, 3, 32, 32), [(20, 7)], [EMPTY])
    sizes = [(1, 1), (9, 17)]
    for found, (height, width) in zip(detector.eval().predict(torch.randn(2, 3, 32, 32), sizes), sizes):
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()


def test_crowds_do_not_count():
    torch.manual_seed(0)
    detector = narrow(CascadeMaskRCNN)
    images, sizes = torch.randn(1, 3, 64, 64), [(64, 64)]
    one = box_target([[4, 4, 40, 50]])
    both = box_target([[4, 4, 40, 50], [10, 0, 60, 30]], iscrowd=torch.tensor([False, True]))
    torch.manual_seed(1)
    expected = detector(images, sizes, [one])
    torch.manual_seed(1)
    assert detector(images, sizes, [both]) == expected


def test_missing_masks_are_named():
    target = box_target([[4, 4, 40, 50]])
    del target["masks"]
    with pytest.raises(InputError, match="masks"):
        narrow(CascadeMaskRCNN)(torch.randn(1, 3, 64, 64), [(64, 64)], [target])


def test_a_cascade_needs_one_entry_for_each_stage():
    roi = {"weights": (1.0, 0.5)}
    with pytest.raises(InputError, match=r"roi\.weights"):
        narrow(CascadeMaskRCNN, roi=roi)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: narrow(MaskRCNN, roi={"levels": 0}), r"roi\.levels is 0"),
        (lambda: narrow(FCOS, head={"bounds": (64.0,)}), r"head\.bounds has 1 values for 5 levels"),
        (lambda: RPNSettings(scales=()), "scales and ratios"),
        (lambda: RandomSampler(0, 0.5), "number 0"),
        (lambda: Selection(keep=-1), "keep is -1"),
    ],
)
def test_impossible_settings_are_refused_at_once(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
