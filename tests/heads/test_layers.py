"""Pooling to a fixed size by products with matrices."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lk_downstream.analysis.memory import PeakMemory
from lk_downstream.heads.layers import AdaptiveMean, Head

SIDES = st.integers(1, 40)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equal_to_adaptive_pooling(size, bins, channels_last):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    means, expected = AdaptiveMean(bins)(own), F.adaptive_avg_pool2d(other, bins)
    torch.testing.assert_close(means, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    (means * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("type", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_rounded_once(type, autocast):
    x = torch.full((1, 2, 64, 96), 100.0).add(torch.randn(1, 2, 64, 96)).to(type)  # sums that float16 does not hold
    with torch.autocast("cpu", type, enabled=autocast):
        means = AdaptiveMean(3)(x)
    torch.testing.assert_close(means, F.adaptive_avg_pool2d(x.double(), 3).to(type), rtol=torch.finfo(type).eps, atol=0)


def test_needs_no_operator_that_refuses_to_be_deterministic():
    x = torch.randn(1, 2, 7, 5, requires_grad=True)
    operators = set()

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operators.add(function.name())
            return function(*args, **(kwargs or {}))

    with Record():
        AdaptiveMean(3)(x).sum().backward()
    refused = ("pool", "scatter", "index", "cumsum")
    assert not [name for name in operators if any(word in name for word in refused)]
    assert any("mm" in name for name in operators)


class Plain(Head):
    """Joins as ``torch.cat`` does."""

    def joined(self, maps, weight):
        """Of resized maps."""
        return torch.cat([maps[0], *(self.resized(x, maps[0]) for x in maps[1:])], dim=1)


SIZES = st.tuples(SIDES, SIDES)
WEIGHT = torch.zeros(1, 2, 3, 3)


@given(
    st.lists(SIZES, min_size=1, max_size=4),
    st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), min_size=4, max_size=4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_joined_maps_equal_concatenated_ones(sizes, types, align_corners, channels_last, autocast):
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    given = [torch.randn(2, 3 + i, *size).to(types[i], memory_format=layout) for i, size in enumerate(sizes)]
    results = []
    for kind in (Head, Plain):
        leaves = [x.clone().requires_grad_() for x in given]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = kind(4, 2, 0.0, align_corners).joined(leaves, WEIGHT)
        (out.double() * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
        results.append((out, *(x.grad for x in leaves)))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_joined_maps_have_second_derivatives():
    head = Head(4, 2, 0.0, False)
    maps = [torch.randn(1, 2, side, side, dtype=torch.float64, requires_grad=True) for side in (5, 3, 2)]
    assert torch.autograd.gradgradcheck(lambda *maps: head.joined([x * x for x in maps], WEIGHT), maps)


def test_joining_holds_one_resized_map_at_a_time():
    maps = [torch.randn(1, 64, side, side) for side in (32, 16, 8, 4)]
    peaks = []
    for kind in (Head, Plain):
        with PeakMemory() as memory:
            out = kind(4, 2, 0.0, False).joined(maps, WEIGHT)
        peaks.append((memory.peak - out.nbytes) / maps[0].nbytes)
    assert peaks[1] >= 3  # maps of the finest size
    assert peaks[0] <= 2  # while one is made, the last is let go


@pytest.mark.parametrize("transform", ["jvp", "export", "compile", "deterministic"])
def test_joining_goes_through_transforms(transform):
    head, plain = Head(4, 2, 0.0, False), Plain(4, 2, 0.0, False)
    maps = [torch.randn(1, 2, side, side) for side in (8, 4)]
    expected = plain.joined(maps, WEIGHT)
    if transform == "jvp":
        run = lambda kind: torch.func.jvp(lambda x: kind.joined([x, x], WEIGHT), (maps[0],), (maps[0],))  # noqa: E731
        own, other = run(head), run(plain)
        torch.testing.assert_close(own, other, rtol=0, atol=0)
        return
    if transform == "export":
        head.forward = head.joined
        own = torch.export.export(head, (maps, WEIGHT)).module()(maps, WEIGHT)
    elif transform == "compile":
        own = torch.compile(head.joined, backend="eager", fullgraph=True)(maps, WEIGHT)
    else:
        torch.use_deterministic_algorithms(True)
        own = head.joined(maps, WEIGHT)
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(own, expected, rtol=0, atol=0)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_joined_maps_lie_in_the_order_of_the_weights(order):
    maps = [torch.randn(1, 2, side, side) for side in (8, 4)]
    joined = Head(4, 2, 0.0, False).joined(maps, torch.zeros(1, 4, 3, 3).contiguous(memory_format=order))
    assert joined.is_contiguous(memory_format=order)
