"""Shears and translations against Pillow's bicubic affine transform, of images of all shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lk_downstream.data import warps

FILL = (124, 116, 104)
WARPS = {  # ours, and the first two rows of the matrix that Pillow takes
    "shear_x": (warps.shear_x, lambda amount, width, height: (1, amount, 0, 0, 1, 0)),
    "shear_y": (warps.shear_y, lambda amount, width, height: (1, 0, 0, amount, 1, 0)),
    "translate_x": (warps.translate_x, lambda amount, width, height: (1, 0, amount * width, 0, 1, 0)),
    "translate_y": (warps.translate_y, lambda amount, width, height: (1, 0, 0, 0, 1, amount * height)),
}


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pillows(name, image, amount):
    """Of Pillow, a channel at a time where it knows no such images."""
    height, width, channels = image.shape
    if channels != 3:
        parts = [pillows(name, image[..., index : index + 1].repeat(3, 2), amount) for index in range(channels)]
        return np.stack([part[..., index % 3] for index, part in enumerate(parts)], 2)
    matrix = WARPS[name][1](amount, width, height)
    return np.array(
        Image.fromarray(image).transform((width, height), Image.AFFINE, matrix, Image.BICUBIC, fillcolor=FILL)
    )


def difference(name, image, amount):
    fill = [FILL[index % 3] for index in range(image.shape[2])]
    found = WARPS[name][0](image, amount, fill)
    assert (found.dtype, found.shape) == (np.uint8, image.shape)
    return np.abs(found.astype(int) - pillows(name, image, amount))


@pytest.mark.parametrize("name", WARPS)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    channels=st.sampled_from((1, 3, 4)),
    amount=st.floats(-2, 2) | st.integers(-40, 40).map(lambda number: number / 20),
)
def test_images_of_all_shapes_are_pillows_to_one_level(name, height, width, channels, amount):
    assert difference(name, noise(height, width, channels), amount).max() <= 1


@pytest.mark.parametrize("name", WARPS)
def test_few_values_differ_at_all(name):
    amounts = np.random.default_rng(1).uniform(-0.45, 0.45, 12)
    found = np.stack([difference(name, noise(97, 131, seed=seed), amount) for seed, amount in enumerate(amounts)])
    assert found.max() <= 1
    assert found.astype(bool).mean() < 1e-3


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("amount", [0.0, 0.25, -0.5, 1.0])
def test_plain_areas_and_whole_numbers_are_exact(name, amount):
    """Else all of a plain area would be a level darker."""
    for level in (0, 1, 100, 254, 255):
        assert difference(name, np.full((16, 16, 3), level, np.uint8), amount + 0.0123).max() == 0
    assert difference(name, noise(16, 16), amount if "translate" in name else round(amount)).max() == 0


def test_places_that_rounding_puts_outside():
    """The place in the last column is within the image by less than its sum can tell."""
    for offset in (0.49999999999999994, 3.4999999999999996, -0.5000000000000001, -3.5000000000000004):
        image = noise(4, 10)
        found = warps.slide(image, np.full(4, offset), 1, FILL)
        matrix = (1, 0, offset, 0, 1, 0)
        expected = Image.fromarray(image).transform((10, 4), Image.AFFINE, matrix, Image.BICUBIC, fillcolor=FILL)
        assert np.abs(found.astype(int) - np.array(expected)).max() <= 1
