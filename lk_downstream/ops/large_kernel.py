"""Depthwise convolution with large kernels: one operator, several backends, the fastest chosen for every shape.

PyTorch's own routines are far from the hardware here (pytorch/pytorch#74363). The operator is registered with
``torch.library``: autograd (twice), ``torch.compile`` and FLOP counters know it. While a model is exported or traced,
the plain ``F.conv2d`` stands in, so that exported files need nothing of this package.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from lk_downstream.errors import InputError, near_names
from lk_downstream.ops import cpu, dispatch
from lk_downstream.ops.choice import SETTLED
from lk_downstream.ops.dispatch import plain
from lk_downstream.ops.watchers import is_recorded, is_transformed

BACKENDS = ("auto", "plain", "contiguous", "channels_last", "fft", "triton")
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# Kernels with fewer taps go to F.conv2d: one pass over the map is all there is to win, and calls here cost some
# microseconds.
FEWEST_TAPS = 25


@torch.jit.ignore
def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str = "auto") -> Tensor:
    """``F.conv2d(x, weight, bias, padding=(kh // 2, kw // 2), groups=C)``, by the fastest way for this shape.

    Args:
        x: maps (N, C, H, W) of any size, contiguous or channels_last; the result has the same shape and layout.
        weight: kernels (C, 1, kh, kw) with odd sides.
        bias: (C,) or None.
        backend: ``auto`` measures the ways that suit a shape when it first occurs and remembers the fastest
            (under ``torch.use_deterministic_algorithms`` a fixed rule decides instead). The others insist: ``plain`` is
            F.conv2d on the tensors as they are; ``contiguous`` and ``channels_last`` convert them first; ``fft``
            multiplies spectra; ``triton`` uses this package's GPU kernels.

    Empty, integer and complex tensors, tensors of differing types, kernels of fewer than 25 taps, devices other than
    CPU and CUDA, models being exported or traced, transforms of ``torch.func`` and forward-mode differentiation get
    F.conv2d, whatever the backend.

    Raises:
        InputError: shapes that do not fit, even kernels, or a backend that is unknown or unavailable (with the reason).
    """
    if backend == "auto" and type(x) is Tensor and not torch.compiler.is_compiling() and _is_bare(x, weight, bias):
        settled = SETTLED.get(
            (x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.dtype, torch.get_num_threads())
        )
        if settled is not None:
            return settled(x, weight, bias)
    if not isinstance(x, Tensor) or is_recorded():  # the former: a proxy of torch.fx
        return plain(x, weight, bias)
    _check(x, weight, bias, backend)
    if is_transformed():
        return plain(x, weight, bias)  # autocast is left to it, as to every operator of PyTorch
    kind = x.device.type
    castable = kind in ("cpu", "cuda") and x.is_floating_point() and x.dtype != torch.float64  # "meta" has no autocast
    if castable and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = bias.to(dtype) if bias is not None else None
    if backend == "plain" or _is_plain(x, weight, bias):  # the former by choice: whatever watches operators sees it
        return plain(x, weight, bias)
    return _forward_op(x, weight, bias, backend)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> None:
    if backend not in BACKENDS:
        raise InputError(
            f"backend={backend!r} is none of {', '.join(BACKENDS)}{near_names(backend, BACKENDS)}; choose one of these"
        )
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[0] != x.shape[1] or weight.shape[1] != 1:
        raise InputError(
            f"a depthwise convolution takes maps (N, C, H, W) and kernels (C, 1, kh, kw), not {tuple(x.shape)} and "
            f"{tuple(weight.shape)}; use F.conv2d for other convolutions"
        )
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise InputError(
            f"a {weight.shape[2]}x{weight.shape[3]} kernel has no centre, so that no padding keeps the size; use odd "
            "sides, or F.conv2d with a padding of your choice"
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise InputError(
            f"the bias has shape {tuple(bias.shape)}; give one number for each of {weight.shape[0]} channels"
        )


def _is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        weight.shape[2] * weight.shape[3] < FEWEST_TAPS
        or x.dtype not in FLOATS
        or weight.dtype != x.dtype
        or (bias is not None and bias.dtype != x.dtype)
        or x.device.type not in ("cpu", "cuda")
        or weight.device != x.device
        or x.layout != torch.strided
        or x.numel() == 0
    )


def _is_bare(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether nothing but the result is wanted: no gradient, cast, trace, or mode that watches operators.

    The way through PyTorch's dispatcher costs 0.1 ms when the caches are cold, as they are in a network: as much as
    a small convolution. For the same reason this asks no more than it must: what exports by other means than a trace
    puts tensors of its own types in the place of ``x``.
    """
    if x.device.type not in ("cpu", "cuda"):  # "meta" cannot be asked for its autocast
        return False
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return False
    return not (
        torch.is_autocast_enabled(x.device.type)
        or torch.are_deterministic_algorithms_enabled()
        or is_transformed()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or (bias is not None and bias.dtype != x.dtype)
        or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


# ---------------------------------------------------------------- operators


@torch.library.custom_op("lk_downstream::depthwise_conv2d", mutates_args=(), device_types=("cpu", "cuda"))
def _forward_op(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        layout = cpu.memory_format_of(x)
        x = x.contiguous(memory_format=layout)
        return dispatch.forward(x, weight, bias, backend).contiguous(memory_format=layout)


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return torch.empty_like(x, memory_format=cpu.memory_format_of(x))


@torch.library.custom_op("lk_downstream::depthwise_conv2d_weight", mutates_args=(), device_types=("cpu", "cuda"))
def _weight_op(grad: Tensor, x: Tensor, kh: int, kw: int, backend: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        layout = cpu.memory_format_of(x)
        x, grad = (t.contiguous(memory_format=layout) for t in (x, grad))
        return dispatch.weight_gradient(grad, x, (kh, kw), backend).contiguous()


@_weight_op.register_fake
def _(grad: Tensor, x: Tensor, kh: int, kw: int, backend: str) -> Tensor:
    return x.new_empty(x.shape[1], 1, kh, kw)


def _forward_setup(ctx, inputs, output) -> None:
    x, weight, bias, ctx.backend = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _forward_backward(ctx, grad: Tensor):
    x, weight = ctx.saved_tensors
    kh, kw = weight.shape[2:]
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = _convolution(grad, weight.flip((2, 3)), ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_weight = _weight_gradient(grad, x, kh, kw, ctx.backend)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weight, grad_bias, None


def _weight_setup(ctx, inputs, output) -> None:
    grad, x, _, _, ctx.backend = inputs
    ctx.save_for_backward(grad, x)


def _weight_backward(ctx, second: Tensor):
    grad, x = ctx.saved_tensors
    by_grad = _convolution(x, second, ctx.backend) if ctx.needs_input_grad[0] else None
    by_x = _convolution(grad, second.flip((2, 3)), ctx.backend) if ctx.needs_input_grad[1] else None
    return by_grad, by_x, None, None, None


# A backward pass may be transformed though its forward pass was not: Jacobians by vmap, Hessians forward over reverse.


def _convolution(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    return plain(x, weight, None) if is_transformed() else _forward_op(x, weight, None, backend)


def _weight_gradient(grad: Tensor, x: Tensor, kh: int, kw: int, backend: str) -> Tensor:
    if is_transformed():
        return cpu.weight_native(grad, x, (kh, kw))
    return _weight_op(grad, x, kh, kw, backend)


_forward_op.register_autograd(_forward_backward, setup_context=_forward_setup)
_weight_op.register_autograd(_weight_backward, setup_context=_weight_setup)


@register_flop_formula(torch.ops.lk_downstream.depthwise_conv2d)
def _forward_flops(x_shape, weight_shape, bias_shape, backend, *args, out_shape=None, **kwargs) -> int:
    return conv_flop_count(x_shape, weight_shape, out_shape)


@register_flop_formula(torch.ops.lk_downstream.depthwise_conv2d_weight)
def _weight_flops(grad_shape, x_shape, kh, kw, backend, *args, out_shape=None, **kwargs) -> int:
    return conv_flop_count(x_shape, out_shape, grad_shape)
