"""The operator on the CPU: values and gradients, refusals, and what PyTorch does with operators."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lk_downstream.errors import InputError
from lk_downstream.ops import BACKENDS, cpu, depthwise_conv2d, notice, report
from lk_downstream.ops.choice import CHOICES, SETTLED
from lk_downstream.ops.dispatch import exact_key
from lk_downstream.ops.large_kernel import _forward_op, _weight_op

SIDES = st.integers(0, 31).map(lambda k: 2 * k + 1)
CPU_BACKENDS = [name for name in BACKENDS if name != "triton"]
# Distance of 1 to the next number of each type, half of which is the rounding error of a result. For float64, whose
# reference is PyTorch's own result, that of a few roundings.
EPS = {torch.float64: 1e-15, torch.float32: 1.2e-7, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
# Times PyTorch's own error. Sums in another order differ by small factors; FFT adds a few roundings.
FACTOR = 4


def plain(x, weight, bias=None):
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def random_case(shape, size, dtype=torch.float32, channels_last=False, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *s: torch.randn(*s, generator=generator).to(dtype)  # noqa: E731
    x = draw(*shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, draw(shape[1], 1, *size), draw(shape[1]) if bias else None, draw(*shape)


def values_and_gradients(function, tensors, grad):
    leaves = [t.detach().clone().requires_grad_() for t in tensors if t is not None]
    out = function(*leaves)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def error(got, exact):
    return (torch.linalg.vector_norm(got.double() - exact) / torch.linalg.vector_norm(exact).clamp_min(1e-300)).item()


def assert_as_exact_as_pytorch(function, x, weight, bias, grad):
    """Output and gradients are no farther from float64 than FACTOR times PyTorch's in the same type."""
    tensors = [x, weight, bias]
    exact = values_and_gradients(plain, [t.double() if t is not None else None for t in tensors], grad.double())
    theirs = values_and_gradients(plain, tensors, grad)
    ours = values_and_gradients(function, tensors, grad)
    for got, reference, other in zip(ours, exact, theirs):
        assert got.dtype == x.dtype
        assert error(got, reference) <= FACTOR * max(error(other, reference), EPS[x.dtype] / 2)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 24),
    st.integers(1, 24),
    SIDES,
    SIDES,
    st.sampled_from(list(EPS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(CPU_BACKENDS),
)
def test_values_and_gradients(n, c, h, w, kh, kw, dtype, channels_last, bias, backend):
    case = random_case((n, c, h, w), (kh, kw), dtype, channels_last, bias)
    assert_as_exact_as_pytorch(lambda *t: depthwise_conv2d(*t, backend=backend), *case)


@pytest.mark.parametrize("size", [(31, 31), (51, 5), (5, 51)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_at_the_sizes_of_the_papers(size, channels_last):
    assert_as_exact_as_pytorch(depthwise_conv2d, *random_case((2, 17, 28, 30), size, channels_last=channels_last))


@pytest.mark.parametrize("name", list(cpu.FORWARD))
@pytest.mark.parametrize("threads_worth_of_cache", [2**10, 2**20])
def test_every_forward_path(name, threads_worth_of_cache, monkeypatch):
    monkeypatch.setattr(cpu, "FFT_BYTES", threads_worth_of_cache)  # one channel at a time, and all at once
    x, weight, bias, _ = random_case((2, 5, 12, 19), (9, 15), torch.float64)
    torch.testing.assert_close(cpu.FORWARD[name](x, weight, bias), plain(x, weight, bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(cpu.WEIGHT))
@pytest.mark.parametrize("size", [(9, 15), (15, 5), (1, 25), (23, 1), (23, 37)])
def test_every_weight_path(name, size):
    x, weight, _, grad = random_case((3, 5, 12, 19), size, torch.float64, bias=False)
    expected = values_and_gradients(plain, [x, weight], grad)[2]
    torch.testing.assert_close(cpu.WEIGHT[name](grad, x, size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("table", [cpu.FORWARD_REDUCED, cpu.WEIGHT_REDUCED], ids=["forward", "weight"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_path_of_the_16_bit_types_rounds_once(table, dtype):
    x, weight, bias, grad = random_case((4, 6, 13, 11), (7, 9), dtype)
    exact = values_and_gradients(plain, [x.double(), weight.double(), bias.double()], grad.double())
    for path in table.values():
        if table is cpu.FORWARD_REDUCED:
            assert error(path(x, weight, bias), exact[0]) < EPS[dtype]
        else:
            assert error(path(grad, x, (7, 9)), exact[2]) < EPS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", [cpu.contiguous, cpu.channels_last])
def test_few_channels_and_wide_kernels_in_16_bits_end(dtype, path):
    x, weight, bias, _ = random_case((1, 3, 12, 33), (5, 15), dtype)
    assert error(path(x, weight, bias), plain(x.double(), weight.double(), bias.double())) < EPS[dtype]


def test_rules_choose_a_known_path_and_are_used_when_runs_must_repeat():
    small, large = torch.empty(1, 4, 8, 8), torch.empty(4, 64, 96, 96)
    assert cpu.ruled_forward(small, (5, 5)) == "channels_last"
    assert cpu.ruled_forward(large, (61, 61)) == "fft" == cpu.ruled_weight(large, (61, 61))
    assert cpu.ruled_weight(small.bfloat16(), (5, 5)) in cpu.WEIGHT_REDUCED
    x, weight, bias, grad = random_case((1, 3, 10, 11), (17, 19))
    before = dict(CHOICES)
    torch.use_deterministic_algorithms(True)
    try:
        once = values_and_gradients(depthwise_conv2d, [x, weight, bias], grad)
        again = values_and_gradients(depthwise_conv2d, [x, weight, bias], grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(once, again))
    assert before == CHOICES


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (31, 41)])
def test_the_second_and_later_calls_agree_with_the_first(size, channels_last):
    x, weight, bias, _ = random_case((1, 3, 10, 12), size, channels_last=channels_last)
    with torch.no_grad():
        for _ in range(4):
            torch.testing.assert_close(depthwise_conv2d(x, weight, bias), plain(x, weight, bias), rtol=1e-4, atol=1e-4)
        assert exact_key(x, weight) in SETTLED
        with torch.autocast("cpu", torch.bfloat16):
            assert depthwise_conv2d(x, weight, bias).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            depthwise_conv2d(x, weight, bias.double())
    assert depthwise_conv2d(x, weight.requires_grad_(), bias).requires_grad


def test_layout_is_kept_and_strided_inputs_are_taken():
    x, weight, bias, _ = random_case((2, 4, 10, 12), (7, 7), torch.float64)
    assert depthwise_conv2d(x, weight).is_contiguous()
    last = x.contiguous(memory_format=torch.channels_last)
    assert depthwise_conv2d(last, weight).is_contiguous(memory_format=torch.channels_last)
    view = x.transpose(2, 3)[:, :, 1:]
    torch.testing.assert_close(depthwise_conv2d(view, weight, bias), plain(view, weight, bias))
    turned = weight.transpose(2, 3)
    torch.testing.assert_close(depthwise_conv2d(x, turned, bias), plain(x, turned, bias))


def test_gradients_of_gradients():
    x, weight, bias, _ = random_case((1, 2, 4, 5), (5, 7), torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(depthwise_conv2d, leaves)
    assert torch.autograd.gradgradcheck(depthwise_conv2d, leaves)


@pytest.mark.parametrize("which", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_asked_for_gradients(which):
    tensors = random_case((1, 2, 6, 6), (5, 5))[:3]
    leaves = [t.requires_grad_(needed) for t, needed in zip(tensors, which)]
    depthwise_conv2d(*leaves).sum().backward()
    assert [leaf.grad is not None for leaf in leaves] == list(which)


# ---------------------------------------------------------------- refused, or left to F.conv2d


@pytest.mark.parametrize(
    ("x", "weight", "bias", "backend", "words"),
    [
        ((1, 2, 8, 8), (2, 1, 4, 5), None, "auto", "no centre"),
        ((1, 2, 8, 8), (4, 1, 5, 5), None, "auto", "depthwise"),
        ((1, 4, 8, 8), (4, 2, 5, 5), None, "auto", "depthwise"),
        ((2, 8, 8), (2, 1, 5, 5), None, "auto", "depthwise"),
        ((1, 2, 8, 8), (2, 1, 5, 5), (3,), "auto", "bias"),
        ((1, 2, 8, 8), (2, 1, 5, 5), None, "tritn", "did you mean 'triton'"),
        ((1, 2, 8, 8), (2, 1, 5, 5), None, "triton", "cpu"),
    ],
)
def test_mistakes_are_said_in_a_sentence(x, weight, bias, backend, words, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match=words):
        depthwise_conv2d(torch.zeros(x), torch.zeros(weight), torch.zeros(bias) if bias else None, backend)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_other_types_are_left_to_pytorch(dtype):
    x = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).to(dtype)
    weight = (torch.arange(3 * 25).reshape(3, 1, 5, 5) % 7).to(dtype)
    torch.testing.assert_close(depthwise_conv2d(x, weight), plain(x, weight))


def test_empty_batches_and_differing_types():
    weight = torch.zeros(3, 1, 5, 5, requires_grad=True)
    out = depthwise_conv2d(torch.zeros(0, 3, 8, 8, requires_grad=True), weight)
    assert out.shape == (0, 3, 8, 8)
    out.sum().backward()
    assert weight.grad.abs().sum() == 0
    with pytest.raises(RuntimeError):
        depthwise_conv2d(torch.zeros(1, 3, 8, 8).double(), weight)


# ---------------------------------------------------------------- citizenship


@pytest.mark.parametrize("channels_last", [False, True])
def test_registration(channels_last):
    x, weight, bias, grad = random_case((2, 3, 8, 9), (5, 7), torch.float64, channels_last)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    torch.library.opcheck(_forward_op, (*leaves, "auto"))
    torch.library.opcheck(_weight_op, (grad.requires_grad_(), leaves[0], 5, 7, "auto"))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_in_one_graph(dynamic):
    x, weight, bias, grad = random_case((2, 3, 10, 12), (7, 9), torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(depthwise_conv2d, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    ours = values_and_gradients(compiled, [x, weight, bias], grad)
    for got, expected in zip(ours, values_and_gradients(plain, [x, weight, bias], grad)):
        torch.testing.assert_close(got, expected)


def test_autocast():
    x, weight, bias, grad = random_case((2, 3, 10, 12), (7, 9))
    with torch.autocast("cpu", torch.bfloat16):
        ours = values_and_gradients(depthwise_conv2d, [x, weight, bias], grad)
        theirs = values_and_gradients(plain, [x, weight, bias], grad)
    assert ours[0].dtype == torch.bfloat16
    for got, expected in zip(ours, theirs):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got.float(), expected.float(), rtol=2e-2, atol=2e-2 * expected.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv2d(x.double(), weight.double()).dtype == torch.float64


def test_checkpointing():
    x, weight, bias, grad = random_case((2, 3, 10, 12), (7, 9), torch.float64)
    again = lambda *t: checkpoint(depthwise_conv2d, *t, use_reentrant=False)  # noqa: E731
    ours = values_and_gradients(again, [x, weight, bias], grad)
    for got, expected in zip(ours, values_and_gradients(plain, [x, weight, bias], grad)):
        torch.testing.assert_close(got, expected)


def test_flops_are_counted():
    x, weight, _, _ = random_case((2, 3, 10, 12), (7, 9))
    with FlopCounterMode(display=False) as once:
        plain(x, weight)
    with FlopCounterMode(display=False) as all_three:
        depthwise_conv2d(x.clone().requires_grad_(), weight.clone().requires_grad_()).sum().backward()
    assert all_three.get_total_flops() == 3 * once.get_total_flops() == 3 * 2 * 2 * 3 * 10 * 12 * 7 * 9


def test_whatever_watches_operators_sees_a_plain_one_where_asked():
    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for backend, name in (("plain", "aten.convolution"), ("auto", "lk_downstream.depthwise_conv2d")):
        with torch.no_grad(), Watching():
            depthwise_conv2d(*random_case((2, 3, 10, 12), (7, 9))[:3], backend)
        assert any(name in operator for operator in seen)
        seen.clear()


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(random_case((1, 3, 1, 1), (7, 9))[1])

    def forward(self, x):
        return depthwise_conv2d(depthwise_conv2d(x, self.weight), self.weight)


def test_exported_programs_hold_plain_convolutions():
    x = random_case((2, 3, 10, 12), (7, 9))[0]
    model = Twice()
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.export.export(model, (x,), dynamic_shapes=(sizes,))
    names = {str(node.target) for node in program.graph.nodes}
    assert not any("lk_downstream" in name for name in names)
    other = random_case((1, 3, 17, 5), (7, 9))[0]
    torch.testing.assert_close(program.module()(other), model(other))
    traced = torch.jit.trace(model, x)
    assert "lk_downstream::" not in str(traced.graph)


def test_onnx_holds_plain_convolutions(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "model.onnx"
    torch.onnx.export(Twice(), (random_case((2, 3, 10, 12), (7, 9))[0],), file, dynamo=True, verbose=False)
    assert {node.op_type for node in onnx.load(file).graph.node} == {"Conv"}


def test_copies_and_distributed_training(tmp_path):
    model = Twice()
    x = random_case((2, 3, 10, 12), (7, 9))[0]
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x), model(x))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(copied)
        parallel(x).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    model(x).sum().backward()
    torch.testing.assert_close(copied.weight.grad, model.weight.grad)


def test_what_is_in_use_is_told():
    depthwise_conv2d(*random_case((1, 3, 10, 12), (7, 9))[:2])
    assert "7x9" in report()
    assert "channels_last" in notice("cpu")
    assert "without Triton kernels" in notice("cuda") or "Triton kernels and" in notice("cuda")
    assert "plain F.conv2d" in notice("mps")
