"""Derivatives of the operator beyond a backward pass: torch.func, forward mode, batched gradients, graphs of them."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from lk_downstream.ops import BACKENDS, LargeKernelConv2d, depthwise_conv2d

SIZES = [(1, 1), (3, 3), (5, 5), (7, 3), (9, 15)]  # the first two have too few taps for the operator
CPU_BACKENDS = [name for name in BACKENDS if name != "triton"]


def plain(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def cubed(function):
    return lambda *tensors: function(*tensors).pow(3).sum()


# A transform makes of a convolution a function of x, weight and bias.
TRANSFORMS = {
    "grad": lambda f: grad(cubed(f), (0, 1, 2)),
    "vjp": lambda f: lambda *t: vjp(f, *t)[1](torch.ones_like(t[0])),
    "jvp": lambda f: lambda *t: jvp(f, t, t),
    "vmap over images": lambda f: lambda x, w, b: vmap(lambda one: f(one[None], w, b))(x),
    "vmap over weights": lambda f: lambda x, w, b: vmap(lambda one: f(x, one, b))(torch.stack([w, 2 * w])),
    "vmap of grad": lambda f: lambda x, w, b: vmap(grad(lambda v, one: cubed(f)(one[None], v, b)), (None, 0))(w, x),
    "jacrev": lambda f: jacrev(cubed(f), (0, 1)),
    "jacfwd": lambda f: jacfwd(cubed(f), 2),
    "hessian": lambda f: hessian(cubed(f), 2),
    "grad of grad": lambda f: grad(lambda *t: grad(cubed(f), 1)(*t).square().sum(), (0, 1)),
    "functional jacobian": lambda f: lambda *t: torch.autograd.functional.jacobian(cubed(f), t),
    "functional jacobian, batched": lambda f: lambda *t: torch.autograd.functional.jacobian(f, t, vectorize=True),
    "functional hvp": lambda f: lambda *t: torch.autograd.functional.hvp(cubed(f), t, t),
    "forward over reverse": lambda f: (
        lambda x, w, b: torch.autograd.functional.hessian(
            lambda bias: cubed(f)(x, w, bias), b, vectorize=True, outer_jacobian_strategy="forward-mode"
        )
    ),
}


def case(size):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 4, 3), (2, 1, *size), (2,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def seen_before(tensors, backend="auto"):
    """Let the operator settle on a path for these shapes: it must not be taken inside a transform."""
    with torch.no_grad():
        for _ in range(3):
            depthwise_conv2d(*tensors, backend)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_transforms(transform, size):
    tensors = case(size)
    for function in (depthwise_conv2d, lambda *t: depthwise_conv2d(*t, "fft")):
        torch.testing.assert_close(TRANSFORMS[transform](function)(*tensors), TRANSFORMS[transform](plain)(*tensors))
    seen_before(tensors)
    got = TRANSFORMS[transform](depthwise_conv2d)(*tensors)
    torch.testing.assert_close(got, TRANSFORMS[transform](plain)(*tensors))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("seen", [False, True])
def test_forward_mode(backend, seen):
    tensors, tangents = case((7, 9)), case((7, 9))
    if seen:
        seen_before(tensors, backend)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, 2 * d) for t, d in zip(tensors, tangents)]
        got = forward_ad.unpack_dual(depthwise_conv2d(*duals, backend)).tangent
        expected = forward_ad.unpack_dual(plain(*duals)).tangent
    assert expected.abs().sum() > 0
    torch.testing.assert_close(got, expected)
    leaves = [t.requires_grad_() for t in case((5, 7))]
    function = lambda *t: depthwise_conv2d(*t, backend)  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True, fast_mode=True)


def test_a_backward_pass_is_transformed_though_its_forward_pass_was_not():
    x, weight, bias = case((7, 9))

    def gradients(function, **options):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = function(*leaves, bias)
        if options:
            batch = torch.stack([torch.ones_like(out), out.detach()])
            return torch.autograd.grad(out, leaves, batch, **options)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.ones_like(out), out.detach())
            parts = torch.autograd.grad(out, leaves, dual, create_graph=True)
            return [forward_ad.unpack_dual(part).tangent.detach() for part in parts]

    torch.testing.assert_close(gradients(depthwise_conv2d), gradients(plain))
    batched = {"is_grads_batched": True}
    torch.testing.assert_close(gradients(depthwise_conv2d, **batched), gradients(plain, **batched))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_graphs_of_derivatives(mode):
    tensors = case((7, 9))
    seen_before(tensors)
    for transform in (lambda f: f, torch.func.functionalize, TRANSFORMS["grad"], TRANSFORMS["jvp"]):
        graph = make_fx(transform(lambda x, w, b: depthwise_conv2d(x, w, b)), tracing_mode=mode)(*tensors)
        torch.testing.assert_close(graph(*tensors), transform(plain)(*tensors))


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap over images"])
def test_compiled_transforms(transform):
    torch.compiler.reset()
    tensors = case((7, 9))
    compiled = torch.compile(TRANSFORMS[transform](depthwise_conv2d), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), TRANSFORMS[transform](plain)(*tensors))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript(tmp_path):
    layers = [LargeKernelConv2d(3, 3, 7, padding=3, groups=3), LargeKernelConv2d(3, 3, 7, padding="same", groups=3)]
    layers += [LargeKernelConv2d(3, 3, 7, padding=3, groups=3, padding_mode="reflect"), LargeKernelConv2d(3, 4, 5)]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(1, 3, 9, 9)
    torch.jit.script(model).save(tmp_path / "model.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(x), model(x))

    def twice(x: torch.Tensor, weight: torch.Tensor):
        return 2 * depthwise_conv2d(x, weight, None, "auto")

    torch.testing.assert_close(torch.jit.script(twice)(x, layers[0].weight), twice(x, layers[0].weight))
