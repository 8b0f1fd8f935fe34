"""Depthwise convolution with large kernels: one operator, several backends, the fastest chosen for every shape.

PyTorch's own routines are far from the hardware here (pytorch/pytorch#74363). The operator is registered with
``torch.library``: autograd (twice), ``torch.compile`` and FLOP counters know it. While a model is exported or traced,
the plain ``F.conv2d`` stands in, so that exported files need nothing of this package.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from lk_downstream.errors import InputError, near_names
from lk_downstream.ops import cpu, triton_backend
from lk_downstream.ops.choice import CHOICES, FAILURES, SETTLED, Candidate, bucket, fastest

BACKENDS = ("auto", "plain", "contiguous", "channels_last", "fft", "triton")
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# Kernels with fewer taps go to F.conv2d: one pass over the map is all there is to win, and calls here cost some
# microseconds.
FEWEST_TAPS = 25
MOST_SETTLED = 4096  # exact shapes to remember

_log = logging.getLogger(__name__)
_told: set[str] = set()


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
    CPU and CUDA, and models being exported or traced get F.conv2d, whatever the backend.

    Raises:
        InputError: shapes that do not fit, even kernels, or a backend that is unknown or unavailable (with the reason).
    """
    if backend == "auto" and type(x) is Tensor and not torch.compiler.is_compiling():
        settled = SETTLED.get(
            (x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.dtype, torch.get_num_threads())
        )
        if settled is not None and _is_bare(x, weight, bias):
            return settled(x, weight, bias)
    if not isinstance(x, Tensor) or _is_recorded():  # the former: a proxy of torch.fx
        return _plain(x, weight, bias)
    _check(x, weight, bias, backend)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64 and x.is_floating_point():
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = bias.to(dtype) if bias is not None else None
    if _is_plain(x, weight, bias):
        return _plain(x, weight, bias)
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
    a small convolution.
    """
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return False
    return not (
        torch.is_autocast_enabled(x.device.type)
        or torch.are_deterministic_algorithms_enabled()
        or _is_recorded()
        or torch._C._len_torch_dispatch_stack()
        or (bias is not None and bias.dtype != x.dtype)
        or (x.device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def _is_recorded() -> bool:
    """Whether a program is being written that others run: torch.export, ONNX, a trace."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


# ---------------------------------------------------------------- operators


@torch.library.custom_op("lk_downstream::depthwise_conv2d", mutates_args=(), device_types=("cpu", "cuda"))
def _forward_op(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        layout = cpu.memory_format_of(x)
        x = x.contiguous(memory_format=layout)
        return _forward(x, weight, bias, backend).contiguous(memory_format=layout)


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return torch.empty_like(x, memory_format=cpu.memory_format_of(x))


@torch.library.custom_op("lk_downstream::depthwise_conv2d_weight", mutates_args=(), device_types=("cpu", "cuda"))
def _weight_op(grad: Tensor, x: Tensor, kh: int, kw: int, backend: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        layout = cpu.memory_format_of(x)
        x, grad = (t.contiguous(memory_format=layout) for t in (x, grad))
        return _weight_gradient(grad, x, (kh, kw), backend).contiguous()


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
        grad_x = _forward_op(grad, weight.flip((2, 3)), None, ctx.backend)
    if ctx.needs_input_grad[1]:
        grad_weight = _weight_op(grad, x, kh, kw, ctx.backend)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3))
    return grad_x, grad_weight, grad_bias, None


def _weight_setup(ctx, inputs, output) -> None:
    grad, x, _, _, ctx.backend = inputs
    ctx.save_for_backward(grad, x)


def _weight_backward(ctx, second: Tensor):
    grad, x = ctx.saved_tensors
    by_grad = _forward_op(x, second, None, ctx.backend) if ctx.needs_input_grad[0] else None
    by_x = _forward_op(grad, second.flip((2, 3)), None, ctx.backend) if ctx.needs_input_grad[1] else None
    return by_grad, by_x, None, None, None


_forward_op.register_autograd(_forward_backward, setup_context=_forward_setup)
_weight_op.register_autograd(_weight_backward, setup_context=_weight_setup)


@register_flop_formula(torch.ops.lk_downstream.depthwise_conv2d)
def _forward_flops(x_shape, weight_shape, bias_shape, backend, *args, out_shape=None, **kwargs) -> int:
    return conv_flop_count(x_shape, weight_shape, out_shape)


@register_flop_formula(torch.ops.lk_downstream.depthwise_conv2d_weight)
def _weight_flops(grad_shape, x_shape, kh, kw, backend, *args, out_shape=None, **kwargs) -> int:
    return conv_flop_count(x_shape, out_shape, grad_shape)


# ---------------------------------------------------------------- dispatch


def _reachable(size: tuple[int, int], shape: torch.Size) -> tuple[int, int]:
    """The part of a kernel that can touch a map: taps farther from the centre than the map is wide see only padding."""
    return min(size[0], 2 * shape[2] - 1), min(size[1], 2 * shape[3] - 1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    paths = _forward_paths(x, weight, backend)
    if backend == "plain":
        return paths[backend](x, weight, bias)
    size = _reachable(tuple(weight.shape[2:]), x.shape)
    paths = {name: _trimmed(path, size) if name in ("fft", "triton") else path for name, path in paths.items()}
    if backend != "auto":
        return paths[backend](x, weight, bias)
    _tell_once(x.device)
    key = _key("forward", x, size)
    name = _ruled("forward", x, size)
    if name is None and key in CHOICES:
        name = CHOICES[key].name
        _settle(x, weight, paths[name])
    if name is not None:
        return paths[name](x, weight, bias)

    def candidate(name: str) -> Candidate:
        layout = cpu.memory_format_of(x)
        images, few = _sample_size(x)
        sample = None
        if name.startswith("contiguous") or name == "plain":
            # PyTorch's contiguous path can be 40 times slower: look at some of the maps first.
            def sample() -> Tensor:
                part = x[:images, :few].contiguous(memory_format=layout)
                return paths[name](part, weight[:few], bias[:few] if bias is not None else None)

        def run() -> Tensor:
            return paths[name](x, weight, bias).contiguous(memory_format=layout)

        return Candidate(name, run, sample, x.shape[0] * x.shape[1] / (images * few))

    order = sorted(paths, key=lambda name: name.startswith("contiguous") or name == "plain")
    return fastest(key, [candidate(name) for name in order], x.device)


def _weight_gradient(grad: Tensor, x: Tensor, size: tuple[int, int], backend: str) -> Tensor:
    paths = _weight_paths(x, size, backend)
    if backend == "plain":
        return paths["native"](grad, x, size)
    kh, kw = _reachable(size, x.shape)
    key = _key("weight", x, (kh, kw))
    if backend in ("fft", "triton"):
        name = backend
    else:
        name = _ruled("weight", x, (kh, kw)) or (CHOICES[key].name if key in CHOICES else None)
    if name is not None:
        part = paths[name](grad, x, (kh, kw))
    else:
        few = min(x.shape[1], 8)

        def sample() -> Tensor:
            layout = cpu.memory_format_of(x)
            return paths["native"](
                grad[:1, :few].contiguous(memory_format=layout), x[:1, :few].contiguous(memory_format=layout), (kh, kw)
            )

        share = x.shape[0] * x.shape[1] / few
        candidates = [
            Candidate(
                name, lambda name=name: paths[name](grad, x, (kh, kw)), sample if name == "native" else None, share
            )
            for name in sorted(paths, key=lambda name: name == "native")
        ]
        part = fastest(key, candidates, x.device)
    rows, columns = (size[0] - kh) // 2, (size[1] - kw) // 2
    return F.pad(part, (columns, columns, rows, rows)) if (kh, kw) != size else part


def _trimmed(path: cpu.ForwardPath, size: tuple[int, int]) -> cpu.ForwardPath:
    """``path`` without the taps that see only padding, where their number costs time."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, left = (weight.shape[2] - size[0]) // 2, (weight.shape[3] - size[1]) // 2
        if top or left:
            weight = weight[:, :, top : top + size[0], left : left + size[1]]
        return path(x, weight, bias)

    return run


def _sample_size(x: Tensor) -> tuple[int, int]:
    """Images and channels of a sample: about one map in 32, so that the cost of a call does not look like slowness."""
    n, c = x.shape[:2]
    few = min(c, max(8, -(-c // 32)))
    return min(n, max(1, n * c // (32 * few))), few


def _settle(x: Tensor, weight: Tensor, path: cpu.ForwardPath) -> None:
    """Let the next call with tensors like these find ``path`` at once."""
    layout = cpu.memory_format_of(x)
    if not x.is_contiguous(memory_format=layout):
        return
    if len(SETTLED) >= MOST_SETTLED:
        SETTLED.clear()
    SETTLED[_exact_key(x, weight)] = lambda x, weight, bias: path(x, weight, bias).contiguous(memory_format=layout)


def _forward_paths(x: Tensor, weight: Tensor, backend: str) -> dict[str, cpu.ForwardPath]:
    """The ways to compute this convolution; an asked-for one is among them or the reason is raised."""
    if backend == "plain":
        return {"plain": _plain}
    table = cpu.FORWARD_REDUCED if x.dtype in cpu.REDUCED else cpu.FORWARD
    if x.device.type == "cpu" and backend != "triton":
        return table
    reason = triton_backend.why_unavailable(x.device, x.dtype, tuple(weight.shape[2:]))
    if reason is not None and backend == "triton":
        raise InputError(f"backend='triton' cannot be used: {reason}; use backend='auto', or name another")
    paths = {"plain": _plain, **cpu.FORWARD}
    if x.dtype in cpu.REDUCED and backend == "auto":
        del paths["fft"]  # never the best beside tensor cores, and needs float32 copies
    if _has_triton(x, tuple(weight.shape[2:])) or backend == "triton":
        paths["triton"] = triton_backend.forward
    return paths


def _weight_paths(x: Tensor, size: tuple[int, int], backend: str) -> dict[str, cpu.WeightPath]:
    if x.device.type == "cpu" and backend != "triton":
        return cpu.WEIGHT_REDUCED if x.dtype in cpu.REDUCED else cpu.WEIGHT
    reduced = x.dtype in cpu.REDUCED
    paths = {"native": cpu.weight_native}
    if not reduced or backend == "fft":
        paths["fft"] = cpu.weight_fft
    if _has_triton(x, size) or backend == "triton":
        paths["triton"] = triton_backend.weight_gradient
    else:
        lines = "lines_float32" if reduced else "lines"
        paths[lines] = (cpu.WEIGHT_REDUCED if reduced else cpu.WEIGHT)[lines]
    return paths


def _has_triton(x: Tensor, size: tuple[int, int]) -> bool:
    return "triton" not in FAILURES and triton_backend.why_unavailable(x.device, x.dtype, size) is None


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=weight.shape[0])


def _exact_key(x: Tensor, weight: Tensor) -> tuple:
    return (x.shape, x.stride(), x.dtype, x.device, weight.shape, weight.dtype, torch.get_num_threads())


def _key(direction: str, x: Tensor, size: tuple[int, int]) -> tuple:
    n, c, h, w = x.shape
    layout = cpu.memory_format_of(x)
    shape = (bucket(n), bucket(c), bucket(h), bucket(w))
    return (direction, x.device, x.dtype, layout, size, shape, torch.get_num_threads())


def _ruled(direction: str, x: Tensor, size: tuple[int, int]) -> str | None:
    """The path to take where nothing may be measured: for reproducible runs, and inside a CUDA graph."""
    if x.device.type == "cpu":
        if not torch.are_deterministic_algorithms_enabled():
            return None
        return cpu.ruled_forward(x, size) if direction == "forward" else cpu.ruled_weight(x, size)
    if not torch.are_deterministic_algorithms_enabled() and not torch.cuda.is_current_stream_capturing():
        return None
    if _has_triton(x, size):
        return "triton"
    return "plain" if direction == "forward" else "native"


# ---------------------------------------------------------------- what is in use


def _tell_once(device: torch.device) -> None:
    if device.type not in _told:
        _told.add(device.type)
        _log.info(notice(device))


def notice(device: torch.device | str = "cpu") -> str:
    """One line that says what large-kernel convolutions run on: for the start of a run."""
    device = torch.device(device)
    if device.type == "cpu":
        return "large kernels on cpu: the fastest of contiguous, channels_last and FFT, measured once per shape"
    if device.type != "cuda":
        return f"large kernels on {device.type}: plain F.conv2d (there are faster ways on CPU and CUDA only)"
    reason = triton_backend.why_unavailable(device, torch.bfloat16, (31, 31)) or FAILURES.get("triton")
    if reason:
        return f"large kernels on cuda: the fastest of PyTorch's layouts and FFT, without Triton kernels: {reason}"
    return "large kernels on cuda: the fastest of Triton kernels and PyTorch's layouts, measured once per shape"


def report() -> str:
    """What was chosen so far, one line per kind of shape, with the time of every way that was run in full."""
    lines = []
    for (direction, device, dtype, layout, size, shape, threads), choice in CHOICES.items():
        timed = sorted((s, name) for name, s in choice.seconds.items() if s < float("inf"))
        about = " x ".join(str(round(2 ** (step / 4))) for step in shape)
        lines.append(
            f"{direction} {size[0]}x{size[1]} on about {about}, {str(dtype).removeprefix('torch.')}, "
            f"{str(layout).removeprefix('torch.')}, {device}"
            + (f" ({threads} threads)" if device.type == "cpu" else "")
            + f": {choice.name} ({', '.join(f'{name} {1e3 * s:.3g} ms' for s, name in timed)})"
        )
    return "\n".join(lines) or "no large-kernel convolution has run yet"
