"""Pixel losses against those who published them."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.models.losses import CrossEntropyLoss, LovaszLoss
from mmseg.structures import OHEMPixelSampler
from torch.utils.data import Subset
from torchvision.ops import sigmoid_focal_loss

from lk_downstream.analysis.memory import PeakMemory
from lk_downstream.data.batches import Transformed
from lk_downstream.data.class_counts import class_pixels, median_frequency_weights
from lk_downstream.errors import InputError
from lk_downstream.tasks import losses
from lk_downstream.tasks.class_weights import refuse_other_weights, weigh_by_frequency
from lk_downstream.tasks.losses import OHEM, Dice, Focal, Lovasz, PixelCrossEntropy, SumOfLosses

WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0]
LOSSES = (PixelCrossEntropy, OHEM, Focal, Dice, Lovasz)
FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])


def case(memory_format=torch.contiguous_format, absent=()):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, generator=generator, dtype=torch.float64).contiguous(memory_format=memory_format)
    target = torch.randint(0, 5, (2, 6, 7), generator=generator)
    for index in absent:
        target[target == index] = 0
    target[:, :2] = 255
    return logits.requires_grad_(), target


def same(ours, theirs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


@FORMATS
def test_average_over_all_pixels_as_mmsegmentation(memory_format):
    logits, target = case(memory_format)
    same(
        PixelCrossEntropy()(logits, target),
        CrossEntropyLoss(avg_non_ignore=False)(logits.float(), target, ignore_index=255),
    )


@FORMATS
def test_weighted_average_over_all_pixels_as_mmsegmentation_0(memory_format):
    logits, target = case(memory_format)
    expected = F.cross_entropy(logits.float(), target, torch.tensor(WEIGHTS), ignore_index=255, reduction="none").mean()
    same(PixelCrossEntropy(WEIGHTS)(logits, target), expected)


def test_average_over_counted_pixels():
    logits, target = case()
    expected = F.cross_entropy(logits.float(), target, ignore_index=255)
    same(PixelCrossEntropy(over_counted=True)(logits, target), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@FORMATS
def test_dice_as_smp(memory_format, weights):
    logits, target = case(memory_format, absent=[3])
    theirs = smp.DiceLoss("multiclass", class_weights=weights, ignore_index=255)
    same(Dice(weights)(logits, target), theirs(logits.float(), target))
    present = (sum(weights) if weights else 5) / (sum(weights) - weights[3] if weights else 4)
    same(Dice(weights, over_present=True)(logits, target), present * theirs(logits.float(), target))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@FORMATS
def test_focal_as_smp_and_torchvision(memory_format, weights):
    logits, target = case(memory_format)
    theirs = smp.FocalLoss("multiclass", alpha=0.25, gamma=2.0, ignore_index=255, class_weights=weights)
    same(Focal(weights)(logits, target), theirs(logits.float(), target))
    if not weights:
        one_hot = F.one_hot(target.where(target < 5, 0), 5).permute(0, 3, 1, 2).float()[:, :, 2:]
        same(Focal()(logits, target), sigmoid_focal_loss(logits.float()[:, :, 2:], one_hot, reduction="mean"))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("absent", [[], [0, 3]])
def test_lovasz_as_mmsegmentation(weights, absent):
    logits, target = case(absent=absent)
    target[target == 0] = 1 if 0 in absent else 0
    theirs = LovaszLoss(reduction="none", class_weight=weights)(logits.float(), target, ignore_index=255)
    ours = Lovasz(weights)(logits, target)
    same(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("threshold", "least"), [(0.1, 3), (0.1, 20), (0.4, 3), (0.9, 100)])
@FORMATS
def test_hard_pixels_as_mmsegmentation(memory_format, threshold, least):
    logits, target = case(memory_format)
    sampler = OHEMPixelSampler(SimpleNamespace(ignore_index=255), threshold, least)
    kept = sampler.sample(logits.detach().float(), target[:, None])
    entropy = F.cross_entropy(logits.float(), target, torch.tensor(WEIGHTS), ignore_index=255, reduction="none")
    same(OHEM(WEIGHTS, threshold, least)(logits, target), (entropy * kept).sum() / kept.sum())


@pytest.mark.parametrize("kind", LOSSES)
def test_the_memory_order_changes_no_gradient_and_ignored_pixels_have_none(kind):
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        logits, target = case(memory_format)
        kind(WEIGHTS)(logits, target).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)
    assert not gradients[0][:, :, :2].any()
    assert gradients[0][:, :, 2:].any()


@pytest.mark.parametrize(
    "kind", [*LOSSES, partial(PixelCrossEntropy, over_counted=True), partial(Dice, over_present=True)]
)
def test_a_crop_without_labels_gives_zero_and_no_nan(kind):
    logits, target = case()
    value = kind()(logits, torch.full_like(target, 255))
    assert value.item() == 0
    value.backward()
    assert not logits.grad.isnan().any()


def test_a_sum_weighs_its_losses():
    logits, target = case()
    ours = SumOfLosses([PixelCrossEntropy(), Dice()], [1.0, 0.5])(logits, target)
    same(ours, PixelCrossEntropy()(logits, target) + 0.5 * Dice()(logits, target))
    with pytest.raises(InputError, match="1 losses and 2 weights"):
        SumOfLosses([Dice()], [1, 2])


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda: SumOfLosses([Dice([1.0, 2.0])]), "the loss Dice has 2 class weights, but there are 3 classes"),
        (lambda: torch.nn.CrossEntropyLoss(torch.ones(4)), "CrossEntropyLoss has 4 class weights"),
        (lambda: Dice("frequenzy"), "did you mean 'frequency'"),
        (lambda: Dice([1.0, -1.0, 1.0]), "every weight must be 0 or more"),
        (lambda: OHEM(threshold=7), "OHEM has threshold 7"),
        (lambda: Dice("frequency")(*case()), "when a training starts"),
    ],
)
def test_what_is_wrong_is_said(loss, said):
    with pytest.raises(InputError, match=said):
        refuse_other_weights(loss(), ("a", "b", "c"))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_made_without_memory(kind):
    with torch.device("meta"):
        assert kind(WEIGHTS).weights.shape == (5,)


def test_weights_by_frequency():
    """By hand: a is all of one mask and half of the other, b half of that; c is in none, and 255 not counted."""
    masks = [np.full((2, 4), 0), np.array([[0, 0, 1, 1]]), np.array([[255, 255]])]
    dataset = [{"mask": torch.tensor(mask, dtype=torch.uint8)} for mask in masks]
    pixels = class_pixels(dataset, 3)
    assert pixels.tolist() == [[8, 0, 0], [2, 2, 0], [0, 0, 0]]
    a, b = 10 / 12, 2 / 4
    expected = [(a + b) / 2 / a, (a + b) / 2 / b, (a + b) / 2 / b]
    assert median_frequency_weights(pixels) == pytest.approx(expected)
    assert class_pixels(dataset, 3, most=2).tolist() == [[8, 0, 0], [0, 0, 0]]
    loss = SumOfLosses([PixelCrossEntropy("frequency"), Dice()])
    part = Transformed(Subset([None, *dataset], [1, 2, 3]), None)
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(train_set=part, classes=("a", "b", "c")),
        is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    weigh_by_frequency(loss, trainer)
    assert loss.losses[0].weights.tolist() == pytest.approx(expected)
    assert loss.losses[1].weights is None


@given(
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from(["contiguous", "channels_last", "neither"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cross_entropy_of_pixels_is_pytorchs(shape, layout, large):
    torch.manual_seed(1)
    n, c, h, w = shape
    logits = torch.randn(shape, dtype=torch.float64) * (1000 if large else 1)
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    if layout == "neither":
        logits = logits.transpose(2, 3).contiguous().transpose(2, 3)
    target, weight = torch.randint(0, c, (n, h, w)), torch.randn(n, h, w, dtype=torch.float64)
    results = []
    for function in (losses.cross_entropy, partial(F.cross_entropy, reduction="none")):
        leaf = logits.clone(memory_format=torch.preserve_format).requires_grad_()
        value = function(leaf, target)
        (value * weight).sum().backward()
        results.append((value, leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cross_entropy_of_pixels_needs_one_map_of_all_classes(layout):
    logits = torch.randn(4, 50, 32, 32).contiguous(memory_format=layout).requires_grad_()
    with PeakMemory() as memory:
        losses.cross_entropy(logits, torch.zeros(4, 32, 32, dtype=torch.int64)).mean().backward()
    assert memory.peak < 1.3 * logits.nbytes


def test_cross_entropy_of_pixels_goes_through_transforms():
    logits, target = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    expected = F.cross_entropy(logits, target)
    mean = lambda logits: losses.cross_entropy(logits, target).mean()  # noqa: E731
    torch.testing.assert_close(torch.func.jvp(mean, (logits,), (logits,))[0], expected)
    torch.testing.assert_close(torch.compile(mean, backend="eager", fullgraph=True)(logits), expected)
