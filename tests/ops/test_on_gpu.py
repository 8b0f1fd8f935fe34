"""The operator on a GPU, at the sizes of the published networks. Without a GPU all of this is skipped."""

import copy

import pytest
import torch
import torch.nn.functional as F

from lk_downstream import create_classifier
from lk_downstream.ops import LargeKernelConv2d, depthwise_conv2d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
# Error of one rounding of the result, of sums in float32, and of factors with the 10 bits of TF32.
LARGEST = {"bfloat16": 3.9e-3, "float16": 4.9e-4, "ieee": 1e-6, "tf32": 2e-3}

# (N, C, H, W, kh, kw)
SHAPES = [
    (64, 384, 32, 32, 31, 31),  # Table 1 of the RepLKNet paper
    (8, 128, 56, 56, 31, 31),  # the stages of RepLKNet-31B
    (8, 256, 28, 28, 29, 29),
    (8, 512, 14, 14, 27, 27),
    (8, 1024, 7, 7, 13, 13),
    (8, 125, 56, 56, 51, 5),  # SLaK-T
    (8, 125, 56, 56, 5, 51),
    (4, 128, 128, 128, 31, 31),  # segmentation
    (2, 96, 160, 113, 7, 7),
    (1, 3, 200, 333, 63, 63),
    (3, 5, 9, 20, 3, 61),
    (2, 16, 5, 4, 31, 31),  # a map smaller than the kernel
]


def case(shape, dtype, layout):
    n, c, h, w, kh, kw = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    draw = lambda *s: torch.randn(*s, device=DEVICE, generator=generator).to(dtype)  # noqa: E731
    x, grad = (draw(n, c, h, w).contiguous(memory_format=layout) for _ in range(2))
    return x, draw(c, 1, kh, kw), draw(c), grad


def values_and_gradients(function, x, weight, bias, grad):
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    out = function(*leaves)
    out.backward(grad)
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def plain(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def error(got, exact):
    return (torch.linalg.vector_norm(got.double() - exact) / torch.linalg.vector_norm(exact)).item()


@pytest.fixture(params=["bfloat16", "float16", "ieee", "tf32"])
def arithmetic(request, monkeypatch):
    """The type, float32 with and without the switch for TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param == "tf32")
    return request.param


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", ["triton", "auto"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, backend, layout, arithmetic):
    tensors = case(shape, getattr(torch, arithmetic, torch.float32), layout)
    got = values_and_gradients(lambda *t: depthwise_conv2d(*t, backend=backend), *tensors)
    assert got[0].is_contiguous(memory_format=layout)
    # Channels do not meet in a depthwise convolution: a few are enough of a reference.
    channels = torch.tensor([0, shape[1] // 2, shape[1] - 1], device=DEVICE)
    maps = lambda t: t[:, channels] if t.dim() == 4 and t.shape[1] == shape[1] else t[channels]  # noqa: E731
    exact = values_and_gradients(plain, *(maps(t).double() for t in tensors))
    for ours, reference in zip(got, exact):
        assert error(maps(ours), reference) < LARGEST[arithmetic]


@pytest.mark.parametrize("shape", SHAPES[:6], ids=str)
def test_same_bits_twice(shape, arithmetic):
    tensors = case(shape, getattr(torch, arithmetic, torch.float32), torch.contiguous_format)
    first, second = (
        values_and_gradients(lambda *t: depthwise_conv2d(*t, backend="triton"), *tensors) for _ in range(2)
    )
    for once, again in zip(first[:3], second[:3]):  # the bias' gradient is PyTorch's sum
        assert torch.equal(once, again)


def test_in_a_graph_of_the_gpu():
    x, weight, bias, _ = case(SHAPES[1], torch.bfloat16, torch.contiguous_format)
    expected = depthwise_conv2d(x, weight, bias)  # measures, which cannot be done while a graph is recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = depthwise_conv2d(x, weight, bias)
    out.zero_()
    graph.replay()
    assert error(out, expected.double()) < LARGEST["bfloat16"]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_trains_as_with_plain_convolutions(compiled):
    torch.manual_seed(0)
    ours = create_classifier("test_replknet", num_classes=5).to(DEVICE)
    theirs = copy.deepcopy(ours)
    for module in theirs.modules():
        if isinstance(module, LargeKernelConv2d):
            module.backend = "plain"
    x = torch.randn(4, 3, 96, 96, device=DEVICE)
    losses = []
    for network in (ours, theirs):
        step = torch.compile(network) if compiled and network is ours else network
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = step(x).float().square().mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
        if a.dim() > 1:
            assert F.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > 0.98, name
