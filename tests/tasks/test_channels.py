"""Channels of images as backbones take them: their number and their scale."""

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream import create_backbone, create_classifier
from lk_downstream.errors import InputError
from lk_downstream.tasks import Classification, Segmentation
from lk_downstream.tasks.channels import scaled


def test_one_channel_sees_the_grey_of_pillow():
    task = Classification(create_classifier("test_slak", num_classes=2, in_chans=1), ("a", "b")).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in images]
    expected = (torch.from_numpy(np.stack(grey))[:, None].float() / 255 - 0.449) / 0.226
    found = task.normalize(images)
    assert found.shape == (2, 1, 32, 32)
    torch.testing.assert_close(found, expected, atol=0.6 / 255 / 0.226, rtol=0)
    assert task.logits(images).shape == (2, 2)


def test_a_grey_image_and_weights_of_three_channels_give_the_same_maps():
    three = create_backbone("test_convnext").eval()
    one = create_backbone("test_convnext", in_chans=1).eval()
    stem = three.body.stem[0]
    state = three.state_dict()
    state["body.stem.0.weight"] = stem.weight.sum(1, keepdim=True)
    one.load_state_dict(state)
    grey = torch.rand(1, 1, 64, 64)
    for left, right in zip(three(grey.expand(-1, 3, -1, -1)), one(grey)):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_four_channels_of_images_that_have_three_get_a_sentence():
    task = Segmentation(create_backbone("test_convnext", in_chans=4), ("a", "b"))
    with pytest.raises(InputError, match="in_chans is 4, but the images have 3 channels"):
        task.normalize(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert task.normalize(torch.zeros(1, 4, 32, 32, dtype=torch.uint8)).shape == (1, 4, 32, 32)
    with pytest.raises(InputError, match="at least 1"):
        create_backbone("test_convnext", in_chans=0)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 1), (3, 1, 4, 4), (2, 4, 1, 9), (0, 3, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_values_are_the_same_in_each_layout(shape, layout, dtype):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.rand(shape[1], 1, 1, generator=torch.Generator().manual_seed(seed)) * 255 for seed in (1, 2))
    given = images.contiguous(memory_format=layout)
    found = scaled(given, mean, std, dtype)
    assert found.stride() == given.stride()
    assert torch.equal(found, (images.to(dtype) - mean) / std)
    assert torch.equal(given, images)
