"""Results kept for a weight are dropped when the weight changes in any way, and with the weight."""

import contextlib
import gc
import os
import sys
import threading

import pytest
import torch

from lk_downstream.ops import LargeKernelConv2d, choice, depthwise_conv2d
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


# ---------------------------------------------------------------- threads


def in_threads(work, count=8):
    """Run ``work(number)`` in threads that take turns as often as they can; the first error is raised."""
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_threads_that_share_it(cache):
    shared = [torch.randn(3, 1, 5, 5) for _ in range(6)]  # more than the budget holds

    def work(number):
        for step in range(200):
            weight = shared[(number + step) % 6] if step % 3 else torch.randn(3, 1, 5, 5)
            assert torch.equal(doubled(cache, weight), 2 * weight)

    in_threads(work)
    del work
    gc.collect()
    assert cache._bytes == sum(made.nbytes for _, _, made in cache._entries.values()) <= cache.budget
    shared.clear()
    gc.collect()
    assert not cache._entries
    assert cache._bytes == 0


def test_what_was_made_of_a_changing_weight_is_not_kept(cache):
    weight = torch.zeros(3, 1, 5, 5)

    def made_while_another_thread_trains():
        weight.data.add_(1)
        return 2 * weight.detach()

    cache.get(weight, "doubled", made_while_another_thread_trains)
    weight.data.sub_(1)  # as averaged weights are swapped in and out
    assert torch.equal(doubled(cache, weight), torch.zeros(3, 1, 5, 5))


def test_weights_that_go_while_the_lock_is_held(cache):
    """A garbage collection may run in the midst of anything."""
    weight = torch.randn(3, 1, 5, 5)
    doubled(cache, weight)
    with cache._lock:
        del weight
        gc.collect()
    other = torch.randn(3, 1, 5, 5)
    doubled(cache, other)
    assert len(cache._entries) == 1
    assert cache._bytes == 300


def test_threads_that_share_a_layer_while_one_trains():
    torch.manual_seed(0)
    layer = LargeKernelConv2d(4, 4, 13, padding=6, groups=4, bias=False)
    layer.backend = "fft"
    x = torch.randn(1, 4, 20, 20)
    powers = [2.0**step for step in range(20)]
    with torch.no_grad():
        layer.weight.div_(layer(x).abs().max())
        known = layer(x).clone()

    def work(number):
        for power in powers:
            if number == 0:
                layer.weight.data = layer.weight.data * 2 if power > 1 else layer.weight.data
            else:
                with torch.no_grad():
                    out = layer(x)
                scale = out.abs().max() / known.abs().max()
                assert scale.log2().round().exp2().item() in powers
                torch.testing.assert_close(out / scale, known)

    in_threads(work)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), known * powers[-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_it_lacks():
    x, weight = torch.randn(1, 4, 20, 20), torch.randn(4, 1, 13, 13)
    expected = depthwise_conv2d(x, weight, backend="fft")
    held, done = threading.Event(), threading.Event()

    def hold():
        with choice.MEASURING, WEIGHT_CACHE._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:  # nothing of pytest's may run here
        code = 1
        with contextlib.suppress(BaseException):
            same = torch.equal(depthwise_conv2d(x, weight, backend="fft"), expected)
            depthwise_conv2d(x[:, :, 1:], weight)
            code = 0 if same else 2
        os._exit(code)
    ended = status = 0
    for _ in range(600):
        if not ended:
            ended, status = os.waitpid(child, os.WNOHANG)
            done.wait(0.05 if not ended else 0)
    done.set()
    thread.join()
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended, "the child waits"
    assert os.waitstatus_to_exitcode(status) == 0
