"""Which backend computes a large-kernel convolution: by name, by rule or by measurement, and what is said of it."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.errors import InputError
from lk_downstream.ops import cpu, triton_backend
from lk_downstream.ops.choice import CHOICES, FAILURES, SETTLED, Candidate, bucket, fastest

MOST_SETTLED = 4096  # exact shapes to remember

_log = logging.getLogger(__name__)
_told: set[str] = set()


def _reachable(size: tuple[int, int], shape: torch.Size) -> tuple[int, int]:
    """The part of a kernel that can touch a map: taps farther from the centre than the map is wide see only padding."""
    return min(size[0], 2 * shape[2] - 1), min(size[1], 2 * shape[3] - 1)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """The convolution of ``x``, which lies in one of the two layouts, by ``backend``; in any layout."""
    paths = forward_paths(x, weight, backend)
    if backend == "plain":
        return paths[backend](x, weight, bias)
    size = _reachable(tuple(weight.shape[2:]), x.shape)
    paths = {name: _trimmed(path, size) if name in ("fft", "triton") else path for name, path in paths.items()}
    if backend != "auto":
        return paths[backend](x, weight, bias)
    tell_once(x.device)
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


def weight_gradient(grad: Tensor, x: Tensor, size: tuple[int, int], backend: str) -> Tensor:
    """Gradient (C, 1, *size) of the weight, where ``grad`` and ``x`` lie in the same layout."""
    paths = weight_paths(x, size, backend)
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
    SETTLED[exact_key(x, weight)] = lambda x, weight, bias: path(x, weight, bias).contiguous(memory_format=layout)


def forward_paths(x: Tensor, weight: Tensor, backend: str) -> dict[str, cpu.ForwardPath]:
    """The ways to compute this convolution; an asked-for one is among them or the reason is raised."""
    if backend == "plain":
        return {"plain": plain}
    table = cpu.FORWARD_REDUCED if x.dtype in cpu.REDUCED else cpu.FORWARD
    if x.device.type == "cpu" and backend != "triton":
        return table
    reason = triton_backend.why_unavailable(x.device, x.dtype, tuple(weight.shape[2:]))
    if reason is not None and backend == "triton":
        raise InputError(f"backend='triton' cannot be used: {reason}; use backend='auto', or name another")
    paths = {"plain": plain, **cpu.FORWARD}
    if x.dtype in cpu.REDUCED and backend == "auto":
        del paths["fft"]  # never the best beside tensor cores, and needs float32 copies
    if _has_triton(x, tuple(weight.shape[2:])) or backend == "triton":
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
    if _has_triton(x, size) or backend == "triton":
        paths["triton"] = triton_backend.weight_gradient
    else:
        lines = "lines_float32" if reduced else "lines"
        paths[lines] = (cpu.WEIGHT_REDUCED if reduced else cpu.WEIGHT)[lines]
    return paths


def _has_triton(x: Tensor, size: tuple[int, int]) -> bool:
    return "triton" not in FAILURES and triton_backend.why_unavailable(x.device, x.dtype, size) is None


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
        return cpu.ruled_forward(x, size) if direction == "forward" else cpu.ruled_weight(x, size)
    if not torch.are_deterministic_algorithms_enabled() and not torch.cuda.is_current_stream_capturing():
        return None
    if _has_triton(x, size):
        return "triton"
    return "plain" if direction == "forward" else "native"


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
