"""Mixup and cutmix in place against timm's."""

import numpy as np
import pytest
import torch
from timm.data import Mixup

from lk_downstream.tasks.classification_mixing import PairwiseMixup


@pytest.mark.parametrize("options", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)], ids=["both", "mixup", "cutmix"])
@pytest.mark.parametrize("number", [2, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_labels_are_timms(options, number, layout):
    sides = [kind(*options, label_smoothing=0.1, num_classes=5) for kind in (Mixup, PairwiseMixup)]
    images = torch.randn((number, 3, 12, 15), generator=torch.Generator().manual_seed(0))
    labels, changed = torch.arange(number) % 5, 0
    for seed in range(12):
        results = []
        for side in sides:
            given = images.clone(memory_format=layout)
            np.random.seed(seed)
            mixed, target = side(given, labels)
            assert mixed is given
            results.append((mixed, target, np.random.rand()))
        (expected, shares, draw), (found, ours, other) = results
        assert draw == other
        assert torch.equal(ours, shares)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        changed += not torch.equal(found, images)
    assert changed > 8


def test_without_mixing_nothing_changes():
    mix = PairwiseMixup(0.8, 1.0, prob=0.0, num_classes=4)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, target = mix(images.clone(), torch.arange(4))
    assert torch.equal(found, images)
    assert target.argmax(1).tolist() == [0, 1, 2, 3]
