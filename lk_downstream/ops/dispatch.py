"""Which backend computes a large-kernel convolution: by name, by rule or by measurement, and what is said of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.errors import InputError
from lk_downstream.ops import cpu, triton_backend
from lk_downstream.ops.choice import (
    CHOICES,
    FAILURES,
    SETTLED,
    Candidate,
    Choice,
    bucket,
    fastest,
    is_out_of_memory,
)

MOST_SETTLED = 4096  # exact shapes to remember

_log = logging.getLogger(__name__)
_told: set[str] = set()


def _reachable(size: tuple[int, int], shape: torch.Size) -> tuple[int, int]:
    """The part of a kernel that can touch a map: taps farther from the centre than the map is wide see only padding."""
    return min(size[0], 2 * shape[2] - 1), min(size[1], 2 * shape[3] - 1)


def _compiled(size: tuple[int, int], shape: torch.Size) -> tuple[int, int]:
    """What Triton kernels compute of it: as for the next map with sides that 4 divides, so that few are compiled."""
    return min(size[0], 8 * -(-shape[2] // 4) - 1), min(size[1], 8 * -(-shape[3] // 4) - 1)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """The convolution of ``x``, which lies in one of the two layouts, by ``backend``; in any layout."""
    paths = forward_paths(x, weight, backend)
    size = tuple(weight.shape[2:])
    for name, part in (("fft", _reachable(size, x.shape)), ("triton", _compiled(size, x.shape))):
        if name in paths:
            paths = {**paths, name: _trimmed(paths[name], part)}
    if backend != "auto":
        return paths[backend](x, weight, bias)
    tell_once(x.device)
    key = _key("forward", x, size)
    if name := _ruled("forward", x, size):
        return _by_rule(key, name, lambda name: paths[name](x, weight, bias))
    choice = CHOICES.get(key)
    if choice is not None and (began := time.perf_counter()) < choice.due:
        _settle(x, weight, paths[choice.name], choice)
        out = paths[choice.name](x, weight, bias)
        if x.device.type == "cpu":
            choice.used(began)
        return out

    layout = cpu.memory_format_of(x)
    images, few = _sample_size(x)

    def candidate(name: str) -> Candidate:
        def run() -> Tensor:
            return paths[name](x, weight, bias).contiguous(memory_format=layout)

        def sample() -> Tensor:
            part = x[:images, :few].contiguous(memory_format=layout)
            return paths[name](part, weight[:few], bias[:few] if bias is not None else None)

        return Candidate(name, run, sample, x.shape[0] * x.shape[1] / (images * few), doubtful(name))

    def doubtful(name: str) -> bool:
        """PyTorch's contiguous way can be 40 times slower."""
        return name.startswith("contiguous") or name == "plain"

    return fastest(key, [candidate(name) for name in sorted(paths, key=doubtful)], x.device)


def weight_gradient(grad: Tensor, x: Tensor, size: tuple[int, int], backend: str) -> Tensor:
    """Gradient (C, 1, *size) of the weight, where ``grad`` and ``x`` lie in the same layout."""
    paths = weight_paths(x, size, backend)
    kh, kw = _reachable(size, x.shape)
    if "triton" in paths:
        paths = {**paths, "triton": _cut(paths["triton"], _compiled(size, x.shape))}
    part = _weight_part(grad, x, size, (kh, kw), paths, backend)
    rows, columns = (size[0] - kh) // 2, (size[1] - kw) // 2
    return F.pad(part, (columns, columns, rows, rows)) if (kh, kw) != size else part


def _weight_part(
    grad: Tensor,
    x: Tensor,
    full: tuple[int, int],
    size: tuple[int, int],
    paths: dict[str, cpu.WeightPath],
    backend: str,
) -> Tensor:
    """Gradient (C, 1, *size) of the middle of a weight of the size ``full``."""
    if backend in ("fft", "triton"):
        return paths[backend](grad, x, size)
    key = _key("weight", x, full)
    if name := _ruled("weight", x, full):
        return _by_rule(key, name, lambda name: paths[name](grad, x, size))
    choice = CHOICES.get(key)
    if choice is not None and (began := time.perf_counter()) < choice.due:
        part = paths[choice.name](grad, x, size)
        if x.device.type == "cpu":
            choice.used(began)
        return part
    layout = cpu.memory_format_of(x)
    few = min(x.shape[1], 8)

    def candidate(name: str) -> Candidate:
        def sample() -> Tensor:
            parts = (tensor[:1, :few].contiguous(memory_format=layout) for tensor in (grad, x))
            return paths[name](*parts, size)

        share = x.shape[0] * x.shape[1] / few
        return Candidate(name, lambda: paths[name](grad, x, size), sample, share, doubtful=name == "native")

    return fastest(key, [candidate(name) for name in sorted(paths, key=lambda name: name == "native")], x.device)


def _trimmed(path: cpu.ForwardPath, size: tuple[int, int]) -> cpu.ForwardPath:
    """``path`` without the taps that see only padding, where their number costs time."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, left = (weight.shape[2] - size[0]) // 2, (weight.shape[3] - size[1]) // 2
        if top or left:
            weight = weight[:, :, top : top + size[0], left : left + size[1]]
        return path(x, weight, bias)

    return run


def _cut(path: cpu.WeightPath, computed: tuple[int, int]) -> cpu.WeightPath:
    """``path``, computing more of the weight than is asked for."""

    def run(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
        top, left = (computed[0] - size[0]) // 2, (computed[1] - size[1]) // 2
        return path(grad, x, computed)[:, :, top : top + size[0], left : left + size[1]]

    return run


def _sample_size(x: Tensor) -> tuple[int, int]:
    """Images and channels of a sample: about one map in 32, so that the cost of a call does not look like slowness."""
    n, c = x.shape[:2]
    few = min(c, max(8, -(-c // 32)))
    return min(n, max(1, n * c // (32 * few))), few


def _settle(x: Tensor, weight: Tensor, path: cpu.ForwardPath, choice: Choice) -> None:
    """Let the next call with tensors like these find ``path`` at once, until the choice is to be measured again."""
    layout = cpu.memory_format_of(x)
    if not x.is_contiguous(memory_format=layout):
        return
    if len(SETTLED) >= MOST_SETTLED:
        SETTLED.clear()

    timed = x.device.type == "cpu"  # elsewhere the call returns before its result is there

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        began = time.perf_counter()
        if began >= choice.due:
            return forward(x, weight, bias, "auto").contiguous(memory_format=layout)
        out = path(x, weight, bias).contiguous(memory_format=layout)
        if timed:
            choice.used(began)
        return out

    SETTLED[exact_key(x, weight)] = run


def forward_paths(x: Tensor, weight: Tensor, backend: str) -> dict[str, cpu.ForwardPath]:
    """The ways to compute this convolution; an asked-for one is among them or the reason is raised."""
    table = cpu.FORWARD_REDUCED if x.dtype in cpu.REDUCED else cpu.FORWARD
    if x.device.type == "cpu" and backend != "triton":
        return table
    reason = triton_backend.why_unavailable(x.device, x.dtype, tuple(weight.shape[2:]))
    if reason is not None and backend == "triton":
        raise InputError(f"backend='triton' cannot be used: {reason}; use backend='auto', or name another")
    paths = {"plain": plain, **cpu.FORWARD}
    if x.dtype in cpu.REDUCED and backend == "auto":
        del paths["fft"]  # never the best beside tensor cores, and needs float32 copies
    if reason is None or backend == "triton":
        paths["triton"] = triton_backend.forward
    return paths


def weight_paths(x: Tensor, size: tuple[int, int], backend: str) -> dict[str, cpu.WeightPath]:
    """The ways to compute the gradient of a weight."""
    if x.device.type == "cpu" and backend != "triton":
        return cpu.WEIGHT_REDUCED if x.dtype in cpu.REDUCED else cpu.WEIGHT
    reduced = x.dtype in cpu.REDUCED
    paths = {"native": cpu.weight_native}
    if not reduced or backend == "fft":
        paths["fft"] = cpu.weight_fft
    if triton_backend.why_unavailable(x.device, x.dtype, size) is None or backend == "triton":
        paths["triton"] = triton_backend.weight_gradient
    else:
        lines = "lines_float32" if reduced else "lines"
        paths[lines] = (cpu.WEIGHT_REDUCED if reduced else cpu.WEIGHT)[lines]
    return paths


def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's convolution of the tensors as they are."""
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=weight.shape[0])


def exact_key(x: Tensor, weight: Tensor) -> tuple:
    """What calls must have in common to share an entry of ``SETTLED``."""
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
        rule = cpu.ruled_forward if direction == "forward" else cpu.ruled_weight
        return rule(x, _reachable(size, x.shape))
    if not torch.are_deterministic_algorithms_enabled() and not torch.cuda.is_current_stream_capturing():
        return None
    without = "plain" if direction == "forward" else "native"
    if triton_backend.why_unavailable(x.device, x.dtype, size) or (_key(direction, x, size), "triton") in FAILURES:
        return without
    return "triton"


def _by_rule(key: Hashable, name: str, run: Callable[[str], Tensor]) -> Tensor:
    """``run(name)``; PyTorch's own way, from then on, where Triton kernels turn out not to work for this shape."""
    if name != "triton":
        return run(name)
    try:
        return run(name)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        FAILURES[key, name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return run("plain" if key[0] == "forward" else "native")


# ---------------------------------------------------------------- what is in use


def tell_once(device: torch.device) -> None:
    """Log the notice for a kind of device when its first convolution runs."""
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
    if reason := triton_backend.why_unavailable(device, torch.bfloat16, (31, 31)):
        return f"large kernels on cuda: the fastest of PyTorch's layouts and FFT, without Triton kernels: {reason}"
    return "large kernels on cuda: the fastest of Triton kernels and PyTorch's layouts, measured once per shape"


def report() -> str:
    """What was chosen so far, one line per kind of shape, with the time of every way that was run in full."""
    lines = []
    for key, choice in list(CHOICES.items()):
        timed = sorted((s, name) for name, s in choice.seconds.items() if s < float("inf"))
        times = ", ".join(f"{name} {1e3 * s:.3g} ms" for s, name in timed)
        lines.append(f"{_described(key)}: {choice.name} ({times})")
    lines += [f"{_described(key)}: {name} failed: {error}" for (key, name), error in list(FAILURES.items())]
    return "\n".join(lines) or "no large-kernel convolution has run yet"


def _described(key: tuple) -> str:
    direction, device, dtype, layout, size, shape, threads = key
    about = " x ".join(str(round(2 ** (step / 4))) for step in shape)
    return (
        f"{direction} {size[0]}x{size[1]} on about {about}, {str(dtype).removeprefix('torch.')}, "
        f"{str(layout).removeprefix('torch.')}, {device}" + (f" ({threads} threads)" if device.type == "cpu" else "")
    )
