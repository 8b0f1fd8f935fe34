"""Pooling to a fixed size by products with matrices."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lk_downstream.heads.layers import AdaptiveMean

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
