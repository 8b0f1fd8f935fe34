"""The resize of uint8 images for a GPU, against PyTorch's own on a CPU."""

import random

import torch
import torch.nn.functional as F

from lk_downstream.data import resize


def differing(count=400, longest=70):
    """Pixels in all, those that differ, and by how many grey levels at most, over sizes drawn at random."""
    generator, draw = random.Random(0), torch.Generator().manual_seed(0)
    pixels = different = most = 0
    for number in range(count):
        height, width, *size = (generator.randint(1, longest) for _ in range(4))
        images = torch.randint(0, 256, (1, 3, height, width), generator=draw).to(torch.uint8)
        if number % 2:
            images = images.contiguous(memory_format=torch.channels_last)
        if size[1] == 1:  # PyTorch 2.14 without vectors is wrong there, by up to 240 levels (and right channels last)
            images = images.contiguous(memory_format=torch.channels_last)
        expected = F.interpolate(images, size, mode="bilinear")
        found = resize.resize_bytes(images, size)
        assert found.shape == expected.shape
        assert found.dtype == torch.uint8
        distance = (found.int() - expected.int()).abs()
        pixels += distance.numel()
        different += (distance > 0).sum().item()
        most = max(most, distance.max().item())
    return pixels, different, most


def test_it_is_pytorchs_on_a_cpu():
    """To the bit with AVX2 and without vectors, where this was tried; others may round a few pixels otherwise."""
    pixels, different, most = differing()
    assert most <= 1, f"{different} of {pixels} pixels"
    assert different <= 1e-3 * pixels, f"{different} of {pixels} pixels"


def test_an_image_one_pixel_wide_is_that_of_floating_point():
    images = torch.randint(0, 256, (2, 3, 52, 56), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    exact = F.interpolate(images.float(), (22, 1), mode="bilinear")
    assert (resize.resize_bytes(images, (22, 1)) - exact).abs().max() < 1.01  # rounded twice


def test_a_shift_by_half_a_pixel_is_found(monkeypatch):
    taps = resize._taps

    def shifted(old, new):
        places, weights, unit = taps(old, new)
        return places, weights.roll(1, dims=1), unit

    def centred_on_corners(old, new):
        places, _, unit = taps(old, new)
        return places, torch.full((2, new), unit / 2), unit

    for wrong in (shifted, centred_on_corners):
        monkeypatch.setattr(resize, "_taps", wrong)
        pixels, different, most = differing(count=5)
        assert most > 1
        assert different > 1e-3 * pixels
