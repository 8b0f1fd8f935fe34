"""Pixel losses."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss

from lk_downstream.tasks.losses import PixelCrossEntropy


def case(memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64).contiguous(memory_format=memory_format)
    target = torch.randint(0, 5, (2, 6, 7), generator=generator)
    target[:, :2] = 255
    return logits.requires_grad_(), target


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_average_over_all_pixels_as_mmsegmentation(memory_format):
    logits, target = case(memory_format)
    expected = CrossEntropyLoss(avg_non_ignore=False)(logits.float(), target, ignore_index=255)
    assert PixelCrossEntropy()(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_weighted_average_over_all_pixels_as_mmsegmentation_0(memory_format):
    logits, target = case(memory_format)
    weights = [1.0, 2.0, 0.5, 1.0, 3.0]
    expected = F.cross_entropy(logits.float(), target, torch.tensor(weights), ignore_index=255, reduction="none").mean()
    assert PixelCrossEntropy(weights)(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_average_over_counted_pixels():
    logits, target = case()
    expected = F.cross_entropy(logits.float(), target, ignore_index=255)
    assert PixelCrossEntropy(over_counted=True)(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_memory_order_changes_no_gradient():
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        logits, target = case(memory_format)
        PixelCrossEntropy()(logits, target).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


def test_a_crop_without_labels_gives_zero_and_no_nan():
    logits, target = case()
    for loss in (PixelCrossEntropy(), PixelCrossEntropy(over_counted=True)):
        value = loss(logits, torch.full_like(target, 255))
        assert value.item() == 0
        value.backward()
        assert not logits.grad.isnan().any()
