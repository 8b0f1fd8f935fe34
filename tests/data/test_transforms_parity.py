"""Against mmsegmentation's and OpenCV's own transforms, with the same draws."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms.processing import Resize as MMCVResize
from mmseg.datasets.transforms import PhotoMetricDistortion as MMSegDistortion
from mmseg.datasets.transforms import RandomCrop as MMSegCrop

from lk_downstream.data.distortion import distort
from lk_downstream.data.transforms import (
    RandomResizeCrop,
    crop_image,
    crop_labels,
    keep_ratio_size,
    resize_image,
    window_of,
)


def make_image(height, width, seed=0):
    """Smooth with some noise, as photographs are; uint8 RGB, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def to_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(96, 128), (48, 64), (200, 333), (95, 130), (37, 200)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resize_is_opencvs(size, dtype):
    image = make_image(96, 128).astype(dtype)
    theirs = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    ours = resize_image(to_tensor(image), size).permute(1, 2, 0).numpy()
    assert ours.dtype == image.dtype
    assert np.abs(ours.astype(float) - theirs).max() <= (1 if dtype == "uint8" else 1e-2)


@pytest.mark.parametrize("shape", [(512, 683), (683, 512), (480, 360), (301, 1999), (1024, 2048)])
@pytest.mark.parametrize("scale", [(2048, 512), (2560, 640), (1024, 256), (2049, 1025), (733, 183)])
def test_size_is_mmcvs(shape, scale):
    result = MMCVResize(scale=scale, keep_ratio=True)({"img": np.zeros((*shape, 3), np.uint8)})
    assert keep_ratio_size(*shape, scale) == result["img"].shape[:2]


@pytest.mark.parametrize(
    ("ratio", "offset"),
    [(0.5, (0, 17)), (0.77, (11, 30)), (1.0, (60, 71)), (1.31, (101, 4)), (2.0, (140, 162)), (1.5, (81, 60))],
)
def test_crop_is_mmsegs(ratio, offset):
    """Where the offset falls on a pixel of the original the crop is the same, elsewhere it is less than a pixel off."""
    image, crop, shape = make_image(120, 160), (96, 96), (120, 160)
    labels = np.kron(np.random.default_rng(1).integers(0, 20, (12, 16)), np.ones((10, 10))).astype(np.uint8)
    scale = (int(480 * ratio), int(120 * ratio))
    results = {"img": image, "gt_seg_map": labels, "seg_fields": ["gt_seg_map"], "keep_ratio": True}
    resized = MMCVResize(scale=scale, keep_ratio=True)(results)
    size = resized["img"].shape[:2]
    offset = [min(start, max(0, extent - side)) for start, extent, side in zip(offset, size, crop)]
    box = (offset[0], offset[0] + crop[0], offset[1], offset[1] + crop[1])
    theirs, cutter = resized["img"], MMSegCrop(crop_size=crop)
    theirs = cutter.crop(theirs, box)
    # mmcv's Resize leaves the labels to mmseg's: OpenCV, nearest
    their_labels = cutter.crop(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST), box)

    window = window_of(shape, keep_ratio_size(*shape, scale), offset, crop)
    ours = crop_image(to_tensor(image), window).permute(1, 2, 0).numpy()
    our_labels = crop_labels(labels, window)
    assert ours.shape == theirs.shape
    assert our_labels.shape == their_labels.shape
    exact = all((start * old / new) % 1 == 0 for start, old, new in zip(offset, shape, size))
    difference = np.abs(ours.astype(int) - theirs)[1:-1, 1:-1]  # the window is cut off, the image goes on
    assert difference.max() <= 1 if exact else difference.mean() < 6
    if exact:
        assert np.array_equal(our_labels, their_labels)
    assert (our_labels == their_labels).mean() > 0.9


def test_crops_are_accepted_as_by_mmseg():
    """Same labels, same share limit: the same verdict, over crops around the limit."""
    rng, step = np.random.default_rng(0), RandomResizeCrop((64, 64))
    verdicts = []
    for _ in range(400):
        labels = rng.integers(0, 3, (64, 64)).astype(np.uint8)
        labels[rng.random((64, 64)) < rng.uniform(0.3, 1)] = 7
        labels[: rng.integers(0, 60)] = 255
        values, counts = np.unique(labels, return_counts=True)  # mmseg/datasets/transforms/transforms.py, RandomCrop
        counts = counts[values != 255]
        theirs = len(counts) > 1 and counts.max() / counts.sum() < 0.75
        verdicts.append(bool(theirs))
        assert step._accepts(labels) == theirs
    assert 0.2 < np.mean(verdicts) < 0.8
    assert not step._accepts(np.zeros((64, 64), np.uint8))
    assert not step._accepts(np.full((64, 64), 255, np.uint8))


class Fixed:
    """Stands in for numpy.random in mmseg: randint(2) and the draws in a given order."""

    def __init__(self, *values):
        self.values = list(values)

    def randint(self, *_):
        return self.values.pop(0)

    uniform = randint


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("brightness", "contrast"), [(20.5, None), (-31.0, None), (None, 0.55), (None, 1.45), (17.0, 1.3), (-25.0, 0.7)]
)
def test_brightness_and_contrast_are_mmsegs(monkeypatch, brightness, contrast, late):
    image = make_image(64, 80)
    theirs = run_mmseg(monkeypatch, image, brightness, contrast, None, None, late)
    ours = distort(to_tensor(image), brightness, contrast, contrast_last=late).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 2  # mmseg cuts the fraction off after each step


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("saturation", "hue"), [(0.6, None), (1.4, None), (None, 9), (None, -17), (1.3, 12), (0.7, -6)]
)
def test_saturation_and_hue_are_mmsegs(monkeypatch, saturation, hue, late):
    """mmseg goes through OpenCV's 8-bit HSV, whose 2-degree hue alone costs up to 4 grey levels."""
    image = make_image(64, 80)
    theirs = run_mmseg(monkeypatch, image, 10.0, 1.2, saturation, hue, late)
    ours = distort(to_tensor(image), 10.0, 1.2, saturation, hue, late).permute(1, 2, 0).numpy()
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) <= 6
    assert difference.max() <= 10

    exact = np.clip(image.astype(np.float32) + 10, 0, 255)
    exact = exact if late else np.clip(exact * np.float32(1.2), 0, 255)
    hsv = cv2.cvtColor(exact / 255, cv2.COLOR_RGB2HSV)  # in floating point nothing is rounded
    hsv[..., 1] = np.clip(hsv[..., 1] * (saturation or 1), 0, 1)
    hsv[..., 0] = (hsv[..., 0] + 2 * (hue or 0)) % 360
    exact = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    exact = np.clip(exact * np.float32(1.2), 0, 255) if late else exact
    assert np.abs(ours - exact).max() < 0.6


def run_mmseg(monkeypatch, image, brightness, contrast, saturation, hue, late):
    def draws(amount):
        return [0] if amount is None else [1, amount]

    order = [*draws(brightness), 0 if late else 1]
    order += [] if late else draws(contrast)
    order += [*draws(saturation), *draws(hue)]
    order += draws(contrast) if late else []
    fixed = Fixed(*order)
    monkeypatch.setattr("mmseg.datasets.transforms.transforms.random", fixed)
    result = MMSegDistortion()({"img": np.ascontiguousarray(image[..., ::-1])})["img"][..., ::-1]
    assert fixed.values == []
    return result
