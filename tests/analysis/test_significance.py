"""Intervals of differences, on scores whose truth is known."""

import numpy as np
import pytest
import torch

from lk_downstream.analysis.significance import Scores, intervals, mean_iou, share
from lk_downstream.metrics import SegmentationMetric


def runs(generator, truth, images=200, seeds=1, spread=0.0, names=None):
    """Runs of a classifier that is right for each image with a probability of its own, shifted by ``truth``."""
    hard = np.linspace(-2, 2, images)
    found = []
    for _ in range(seeds):
        chance = 1 / (1 + np.exp(-(1 + hard + truth + spread * generator.standard_normal())))
        right = generator.random(images) < chance
        found.append(Scores(names or [f"{n}.png" for n in range(images)], np.stack([right, np.ones(images)], 1), share))
    return found


def expected(truth, spread=0.0, images=200):
    generator = np.random.default_rng(0)
    shifts = spread * generator.standard_normal(4000) if spread else np.zeros(1)
    hard = np.linspace(-2, 2, images)
    return np.mean(1 / (1 + np.exp(-(1 + hard + truth + shifts[:, None]))))


@pytest.mark.parametrize(("seeds", "spread", "truth"), [(1, 0.0, 0.4), (3, 0.2, 0.4), (3, 0.2, 0.0)])
def test_intervals_hold_the_true_difference_about_as_often_as_they_say(seeds, spread, truth):
    generator = np.random.default_rng(7)
    real = expected(truth, spread) - expected(0.0, spread)
    held, times = 0, 100
    for number in range(times):
        models = [runs(generator, value, seeds=seeds, spread=spread) for value in (0.0, truth, 0.0)]
        found = intervals(models, draws=300, seed=number)[1]
        held += found.low <= real <= found.high
        assert found.seeds == (seeds > 1)
    assert 0.90 <= held / times <= 1.0  # 95 %; images are few and drawn, so that it may be somewhat more


def test_a_large_difference_is_no_noise_and_a_small_one_is():
    generator = np.random.default_rng(1)
    none, large, small = intervals([runs(generator, value, images=2000) for value in (0.0, 1.0, 0.02)])
    assert none is None
    assert not large.noise
    assert large.difference == pytest.approx(expected(1.0) - expected(0.0), abs=0.03)
    assert small.noise


def test_seeds_that_differ_much_make_noise_of_what_images_alone_do_not():
    """The planted fault: two models whose runs spread by far more than what lies between them."""
    generator = np.random.default_rng(4)
    one, two = (runs(generator, truth, images=2000) for truth in (0.0, 0.3))
    assert not intervals([one, two])[1].noise
    spread = [runs(generator, shift, images=2000)[0] for shift in (-0.8, 0.9)]
    assert intervals([spread, [*two, *two]])[1].noise


def test_pairing_by_image_removes_what_all_models_share():
    names = [f"{n}" for n in range(300)]
    base = np.random.default_rng(0).random(300)
    first = Scores(names, np.stack([base, np.ones(300)], 1), share)
    second = Scores(names[::-1], np.stack([base[::-1] + 0.01, np.ones(300)], 1), share)  # in another order
    found = intervals([[first], [second]])[1]
    assert found.low == pytest.approx(0.01, abs=1e-9)
    assert found.high == pytest.approx(0.01, abs=1e-9)


def test_other_images_or_none_are_not_compared():
    generator = np.random.default_rng(0)
    one, other = runs(generator, 0.0), runs(generator, 0.0, names=[f"other {n}" for n in range(200)])
    assert intervals([one, other, []]) == [None, None, None]
    twice = runs(generator, 0.0, names=["a.png"] * 200)
    assert intervals([twice, twice]) == [None, None]


def test_mean_iou_of_the_sums_is_that_of_the_metric():
    generator = torch.Generator().manual_seed(0)
    masks, predictions = (torch.randint(0, 5, (6, 12, 12), generator=generator, dtype=torch.uint8) for _ in range(2))
    masks[0, :3] = 255
    metric = SegmentationMetric([str(n) for n in range(7)])  # of which two occur nowhere
    metric.update(predictions, masks)
    counts = []
    for mask, prediction in zip(masks, predictions):
        known = mask != 255
        pairs = [((mask == k) & known, (prediction == k) & known) for k in range(7)]
        counts.append([[int((a & b).sum()) for a, b in pairs], [int((a | b).sum()) for a, b in pairs]])
    sums = np.array(counts).sum(0, keepdims=True).astype(float)
    assert mean_iou(sums)[0] == pytest.approx(float(metric.compute()["mIoU"]), abs=1e-12)
