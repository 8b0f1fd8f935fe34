"""Results kept for a weight are dropped when the weight changes in any way, and with the weight."""

import gc

import pytest
import torch

from lk_downstream.ops import depthwise_conv2d
from lk_downstream.ops.weight_cache import WEIGHT_CACHE, WeightCache


@pytest.fixture
def cache():
    return WeightCache(budget=1000)


def doubled(cache, weight):
    return cache.get(weight, "doubled", lambda: 2 * weight.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_kept_while_unchanged(cache, dtype):
    weight = torch.randn(3, 1, 5, 5).to(dtype)
    assert doubled(cache, weight) is doubled(cache, weight)
    assert cache.hits == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_(1),
        lambda w: w.data.mul_(0.5),
        lambda w: w.data[0, 0, 0, :2].copy_(w.data[0, 0, 0, :2].flip(0).clone()),
        lambda w: setattr(w, "data", torch.randn(3, 1, 5, 5)),
    ],
    ids=["in place", "through data", "exchange", "other data"],
)
def test_any_change_is_seen(cache, change):
    weight = torch.randn(3, 1, 5, 5)
    doubled(cache, weight)
    change(weight)
    assert torch.equal(doubled(cache, weight), 2 * weight)
    assert cache.hits == 0


def test_entries_go_with_their_weight_and_beyond_the_budget(cache):
    weight = torch.randn(3, 1, 5, 5)
    doubled(cache, weight)
    del weight
    gc.collect()
    assert not cache._entries
    assert cache._bytes == 0
    kept = [torch.randn(3, 1, 5, 5) for _ in range(5)]  # 300 bytes each
    for weight in kept:
        doubled(cache, weight)
    assert cache._bytes == 900
    assert torch.equal(doubled(cache, kept[0]), 2 * kept[0])


def test_the_operator_uses_it():
    x, weight = torch.randn(1, 4, 20, 20), torch.nn.Parameter(torch.randn(4, 1, 13, 13))
    first = depthwise_conv2d(x, weight, backend="fft")
    hits = WEIGHT_CACHE.hits
    assert torch.equal(depthwise_conv2d(x, weight, backend="fft"), first)
    assert WEIGHT_CACHE.hits == hits + 1
    weight.data.neg_()
    torch.testing.assert_close(depthwise_conv2d(x, weight, backend="fft"), -first)
