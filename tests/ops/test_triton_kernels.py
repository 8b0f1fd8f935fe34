"""The Triton kernels, run by Triton's interpreter in a process of its own: it must be asked for before the import."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lk_downstream.ops import depthwise_conv2d, triton_backend
from lk_downstream.ops.triton_backend import Plan, forward_plans, frame, precision, toeplitz_bank, weight_plans

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
in_interpreter = pytest.mark.skipif(not triton_backend.interpreted(), reason="run by test_in_the_interpreter")
# Largest error: of float32 sums of up to 63 x 63 terms, and for the 16-bit types of one rounding at the end.
LARGEST = {torch.float32: 4e-7, torch.bfloat16: 3.9e-3, torch.float16: 4.9e-4}

# (N, C, H, W, kh, kw), plan of the forward pass, plan of the weight gradient
CASES = [
    ((2, 3, 8, 8, 5, 5), None, None),
    ((1, 1, 5, 4, 31, 31), None, None),  # a map smaller than the kernel
    ((1, 2, 1, 1, 5, 5), None, None),
    ((2, 2, 9, 20, 7, 7), Plan(16, 16, 16, 2), Plan(2, 16, 32, 2)),  # tiles that end outside of the map
    ((3, 2, 7, 7, 13, 13), Plan(16, 16, 16, 4), Plan(4, 16, 32, 4)),
    ((2, 1, 10, 40, 11, 21), Plan(32, 32, 32, 1), Plan(1, 32, 32, 8)),  # several tiles of columns
    ((1, 1, 24, 34, 13, 31), Plan(16, 16, 16, 8), Plan(4, 16, 64, 4)),
    ((2, 2, 12, 40, 5, 25), Plan(32, 32, 32, 2), Plan(1, 32, 32, 1)),  # wide
    ((2, 2, 30, 11, 25, 5), Plan(32, 16, 16, 1), Plan(2, 16, 32, 1)),  # tall: on the transposed map
    ((1, 1, 3, 9, 3, 63), Plan(16, 16, 16, 2), Plan(2, 16, 32, 2)),
    ((1, 1, 33, 8, 63, 1), Plan(16, 64, 16, 1), None),
]


@needs_triton
@pytest.mark.skipif(triton_backend.interpreted(), reason="this is the interpreter")
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def tensors(shape, dtype):
    n, c, h, w, kh, kw = shape
    generator = torch.Generator().manual_seed(sum(shape))
    draw = lambda *s: torch.randn(*s, generator=generator).to(dtype)  # noqa: E731
    return draw(n, c, h, w), draw(c, 1, kh, kw), draw(c), draw(n, c, h, w)


def exact(x, weight, bias, grad):
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    out = F.conv2d(*leaves, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])
    out.backward(grad.double())
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def error(got, reference):
    return (torch.linalg.vector_norm(got.double() - reference) / torch.linalg.vector_norm(reference)).item()


@needs_triton
@in_interpreter
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float32) for case in CASES]
    + [(case, dtype) for case in (CASES[3], CASES[7]) for dtype in (torch.bfloat16, torch.float16)],
    ids=str,
)
def test_forward_and_weight_gradient(case, dtype):
    shape, plan, weight_plan = case
    x, weight, bias, grad = tensors(shape, dtype)
    out, _, by_weight, _ = exact(x, weight, bias, grad)
    got = triton_backend.forward(x, weight, bias, plan)
    assert got.shape == x.shape
    assert error(got, out) < LARGEST[dtype]
    got = triton_backend.weight_gradient(grad, x, shape[4:], weight_plan)
    assert error(got, by_weight) < LARGEST[dtype]


@needs_triton
@in_interpreter
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_through_autograd(layout):
    x, weight, bias, grad = tensors((2, 3, 9, 10, 7, 9), torch.float32)
    leaves = [t.clone().requires_grad_() for t in (x.contiguous(memory_format=layout), weight, bias)]
    out = depthwise_conv2d(*leaves, backend="triton")
    assert out.is_contiguous(memory_format=layout)
    out.backward(grad)
    for got, reference in zip([out, *(leaf.grad for leaf in leaves)], exact(x, weight, bias, grad)):
        assert error(got, reference) < LARGEST[torch.float32]


@needs_triton
@in_interpreter
def test_same_bits_twice():
    shape, plan, weight_plan = CASES[3]
    x, weight, bias, grad = tensors(shape, torch.float16)
    assert torch.equal(triton_backend.forward(x, weight, bias, plan), triton_backend.forward(x, weight, bias, plan))
    once, again = (triton_backend.weight_gradient(grad, x, shape[4:], weight_plan) for _ in range(2))
    assert torch.equal(once, again)


# ---------------------------------------------------------------- what needs no kernel


@pytest.mark.parametrize(("width", "columns"), [(8, 16), (24, 16), (40, 32), (40, 64)])
def test_the_bank_holds_shifted_kernel_rows(width, columns):
    weight = torch.randn(2, 1, 3, 11)
    box = frame(width, 11, columns, 16)
    bank = toeplitz_bank(weight, box, columns)
    assert bank.shape == (2, 3, box.depth, columns)
    assert bank.is_contiguous()
    for k in range(box.depth):
        for v in range(columns):
            tap = k - v + box.tap
            expected = weight[:, 0, :, tap] if 0 <= tap < 11 else torch.zeros(2, 3)
            assert torch.equal(bank[:, :, k, v], expected)
    assert box.origin % 8 == 0
    assert box.tap == box.origin + 5  # row 0 is column `origin`: tap 5, the centre, has distance 0


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    "shape", [(64, 384, 32, 32, 31, 31), (1, 128, 56, 56, 5, 51), (1, 8, 1, 8, 3, 3), (2, 9, 7, 8, 63, 63)]
)
def test_there_are_plans_for_every_shape(shape, itemsize):
    n, c, h, w, kh, kw = shape
    for plan in forward_plans(n, h, w, kh, kw, itemsize, c):
        assert plan.rows * plan.columns * plan.group <= triton_backend.ACCUMULATORS
        assert frame(w, kw, plan.columns, plan.depth).depth % plan.depth == 0
    assert forward_plans(n, h, w, kh, kw, itemsize, c)
    assert weight_plans(n, h, w, kh, kw, itemsize, c)


def test_float32_products_follow_the_switch_of_pytorch():
    assert precision(torch.bfloat16) == "tf32"
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed, name in ((True, "tf32"), (False, "ieee")):
            torch.backends.cudnn.allow_tf32 = allowed
            assert precision(torch.float32) == name
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_unavailability_has_a_reason(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    reason = triton_backend.why_unavailable
    cpu = torch.device("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "not installed" in reason(cpu, torch.float32, (7, 7))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert reason(cpu, torch.float32, (7, 7)) is None
    assert "float64" in reason(cpu, torch.float64, (7, 7))
    assert "larger than 63" in reason(cpu, torch.float32, (7, 65))
    assert "mps" in reason(torch.device("mps"), torch.float32, (7, 7))
