"""Host side of triton_kernels.py: block sizes for a shape, the bank of Toeplitz blocks, launches."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.ops import choice
from lk_downstream.ops.choice import bucket
from lk_downstream.ops.cpu import memory_format_of

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
LARGEST_KERNEL = 63
TIMED_PLANS = 6  # block sizes measured for a shape, the best by the count of operations and bytes
ACCUMULATORS = 128 * 256  # float32 numbers that one program can hold


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_unavailable(device: torch.device, dtype: torch.dtype, size: tuple[int, int]) -> str | None:
    """Why these kernels cannot compute the convolution, as the end of a sentence; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"the tensors are on {device.type}, where Triton has no kernels (but with TRITON_INTERPRET=1, slowly)"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is older than Ampere (compute capability 8.0)"
    if dtype not in DTYPES:
        return f"{str(dtype).removeprefix('torch.')} is none of bfloat16, float16 and float32"
    if max(size) > LARGEST_KERNEL:
        return f"a {size[0]}x{size[1]} kernel is larger than {LARGEST_KERNEL}"
    return None


@dataclass(frozen=True)
class Plan:
    """Block sizes of one launch, as named in triton_kernels.py.

    Attributes:
        rows: BM of the forward pass; A of the weight gradient.
        columns: BN, or BV (= BU).
        depth: BK.
        group: S.
        cache: CACHE of the forward pass.
    """

    rows: int
    columns: int
    depth: int
    group: int
    warps: int = 4
    stages: int = 3
    cache: str = ""


@dataclass(frozen=True)
class Frame:
    """Where the Toeplitz blocks of a plan lie: row k of a block is image column ``origin + k`` past the tile's first.

    Attributes:
        origin: at most 0; 0 where one tile holds the whole map, so that nothing beside it is multiplied.
        tap: kernel column that row 0 has with column 0 of the tile.
        depth: rows, a multiple of the plan's depth.
    """

    origin: int
    tap: int
    depth: int


def frame(width: int, kw: int, columns: int, depth: int) -> Frame:
    """The frame for maps of ``width`` columns (padded) and kernels of ``kw`` columns."""
    pad = kw // 2
    if width <= columns:
        return Frame(0, pad, -(-width // depth) * depth)
    margin = -(-pad // 8) * 8  # keeps loads aligned to 8 numbers
    rows = margin - pad + columns + kw - 1
    return Frame(-margin, pad - margin, -(-rows // depth) * depth)


def _warps(accumulators: int) -> int:
    return 8 if accumulators > 64 * 128 else 4


def _cost(flops: float, cache_bytes: float, programs: int) -> float:
    """Seconds by the count alone, for ranking: a large GPU, with a loss for an incomplete last wave of programs."""
    waves = programs / 132
    return (flops / 600e12 + cache_bytes / 5e12) * math.ceil(waves) / waves


def forward_plans(n: int, h: int, width: int, kh: int, kw: int, itemsize: int, c: int) -> list[Plan]:
    """Plans for the forward pass, the most promising first by operations done and bytes loaded."""
    ranked = []
    for rows, columns, group in itertools.product((16, 32, 64, 128), (16, 32, 64), (1, 2, 4, 8, 16)):
        groups = -(-h // group)
        if not 32 <= columns * group <= 256 or rows * columns * group > ACCUMULATORS:
            continue
        if group > max(h, 2) or rows > max(16, 2 ** math.ceil(math.log2(n * groups))) or columns >= 2 * max(width, 16):
            continue
        for depth in (16, 32, 64):
            box = frame(width, kw, columns, depth)
            if depth > max(16, box.depth) or depth * itemsize > 128:
                continue
            tiles_m, tiles_v = -(-n * groups // rows), -(-width // columns)
            steps = 0
            for tile in range(tiles_m):
                first, last = tile * rows // n, min((tile * rows + rows - 1) // n, groups - 1)
                steps += min(kh + group - 1, h + kh // 2 - first * group) - max(kh // 2 - last * group, 0)
            blocks = 0
            for tile in range(tiles_v):
                left = tile * columns + box.origin
                blocks += min(box.depth // depth, -(-(width - left) // depth)) - max(-left, 0) // depth
            work = c * steps * blocks * depth
            tile_bytes = (rows + columns * group) * itemsize
            seconds = _cost(2 * work * rows * columns * group, work * tile_bytes, c * tiles_m * tiles_v)
            plan = Plan(rows, columns, depth, group, _warps(rows * columns * group), 4 if depth < 64 else 3)
            ranked.append((seconds, plan))
    ordered = [plan for _, plan in sorted(ranked, key=lambda item: item[0])]
    return [replace(plan, cache=cache) for plan in ordered for cache in (".ca", "")]


def weight_plans(n: int, h: int, width: int, kh: int, kw: int, itemsize: int, c: int) -> list[Plan]:
    """Plans for the gradient of the weight, the most promising first."""
    ranked = []
    for chunk, columns, group in itertools.product((1, 2, 4, 8), (16, 32, 64), (1, 2, 4, 8)):
        rows = chunk * columns
        if not 16 <= rows <= 128 or not 16 <= columns * group <= 256 or columns >= 2 * max(width, 16):
            continue
        if group > max(h, 2) or chunk >= 2 * (kh + group - 1):
            continue
        for depth in (32, 64):
            box = frame(width, kw, columns, columns)
            programs = box.depth // columns * -(-(kh + group - 1) // chunk)
            inner = n * -(-h // group) * -(-width // columns)
            work = c * programs * -(-inner // depth) * depth
            # Summing the diagonals costs about as much as 16 * kw products of the accumulators.
            flops = 2 * rows * columns * group * (work + c * programs * 16 * kw)
            seconds = _cost(flops, work * (rows + columns * group) * itemsize, c * programs)
            ranked.append((seconds, Plan(chunk, columns, depth, group, _warps(rows * columns * group), 3)))
    return [plan for _, plan in sorted(ranked, key=lambda item: item[0])]


# ---------------------------------------------------------------- launches


def precision(dtype: torch.dtype) -> str:
    """How float32 products are computed, by PyTorch's own switch for convolutions (16-bit ones are exact)."""
    if dtype != torch.float32:
        return "tf32"
    conv = getattr(torch.backends.cudnn, "conv", None)
    setting = getattr(conv, "fp32_precision", None)
    if setting in (None, "none"):
        return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    return "tf32" if setting == "tf32" else "ieee"


def _prepared(x: Tensor, swap: bool) -> Tensor:
    """``x``, transposed if ``swap``, contiguous and zero-padded on the right to a width that 8 divides."""
    if swap:
        x = x.transpose(2, 3)
    n, c, h, w = x.shape
    width = -(-w // 8) * 8
    if width == w:
        return x.contiguous()
    padded = x.new_empty(n, c, h, width)
    padded[..., w:] = 0
    padded[..., :w] = x
    return padded


def toeplitz_bank(weight: Tensor, box: Frame, columns: int) -> Tensor:
    """Blocks (C, kh, box.depth, columns) with ``bank[c, i, k, v] = weight[c, 0, i, k - v + box.tap]``, else 0."""
    c, _, kh, kw = weight.shape
    left = columns - 1 - box.tap
    line = F.pad(weight[:, 0], (left, box.depth + columns - 1 - left - kw))
    line = line.contiguous()
    length = line.shape[2]
    # Rows that start one further each hold k - v for v counted down: flipping them gives the Toeplitz block.
    # The two equal strides leave the order of the result's to PyTorch, hence `contiguous`.
    return line.as_strided((c, kh, box.depth, columns), (kh * length, length, 1, 1)).flip(3).contiguous()


def _swap(size: tuple[int, int]) -> bool:
    """Whether to work on transposed maps: the long side of the kernel belongs into the Toeplitz block."""
    return size[0] > 1.5 * size[1]


def _restored(y: Tensor, swap: bool, layout: torch.memory_format) -> Tensor:
    return (y.transpose(2, 3) if swap else y).contiguous(memory_format=layout)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan | None = None) -> Tensor:
    """The convolution, in the layout of ``x``. ``plan`` overrides the measured block sizes."""
    layout = memory_format_of(x)
    swap = _swap(weight.shape[2:])
    image = _prepared(x, swap)
    if swap:
        weight = weight.transpose(2, 3)
    n, c, h, w = x.shape
    if swap:
        h, w = w, h
    kh, kw = weight.shape[2:]

    def launch(plan: Plan) -> Tensor:
        return _launch_forward(image, weight, bias, w, plan)

    if plan is None:
        plans = functools.partial(forward_plans, n, h, image.shape[3], kh, kw, x.element_size(), c)
        key = ("forward", x.device, x.dtype, kh, kw, *map(bucket, (h, w, n, c)), precision(x.dtype))
        plan = _tuned(key, plans, launch, lambda: _reference_forward(image, weight, bias, w))
    return _restored(launch(plan), swap, layout)


def _launch_forward(image: Tensor, weight: Tensor, bias: Tensor | None, w: int, plan: Plan) -> Tensor:
    from lk_downstream.ops.triton_kernels import forward_kernel

    n, c, h, width = image.shape
    kh, kw = weight.shape[2:]
    box = frame(width, kw, plan.columns, plan.depth)
    bank = toeplitz_bank(weight, box, plan.columns)
    out = image.new_empty(n, c, h, w)
    align = math.gcd(w, 8)
    tiles = -(-n * -(-h // plan.group) // plan.rows) * -(-w // plan.columns)
    with _on(image.device):
        forward_kernel[(tiles, c)](
            image, bank, bias if bias is not None else bank, out,
            n, c, h, width // 8, w // align, kh, kh // 2,
            ORIGIN=box.origin, KB=box.depth, ALIGN=align, HAS_BIAS=bias is not None,
            BM=plan.rows, BN=plan.columns, BK=plan.depth, S=plan.group, CACHE=plan.cache,
            PRECISION=precision(image.dtype), WIDEN=interpreted() and image.dtype == torch.bfloat16,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
    return out


def weight_gradient(grad: Tensor, x: Tensor, size: tuple[int, int], plan: Plan | None = None) -> Tensor:
    """Gradient (C, 1, kh, kw) of the weight."""
    swap = _swap(size)
    image, grads = _prepared(x, swap), _prepared(grad, swap)
    kh, kw = (size[1], size[0]) if swap else size
    n, c, h, width = image.shape

    def launch(plan: Plan) -> Tensor:
        return _launch_weight(image, grads, (kh, kw), plan)

    if plan is None:
        plans = functools.partial(weight_plans, n, h, width, kh, kw, x.element_size(), c)
        key = ("weight", x.device, x.dtype, kh, kw, *map(bucket, (h, width, n, c)), precision(x.dtype))
        plan = _tuned(key, plans, launch, lambda: _reference_weight(grads, image, (kh, kw)))
    out = launch(plan)
    return out.transpose(2, 3).contiguous() if swap else out


def _launch_weight(image: Tensor, grads: Tensor, size: tuple[int, int], plan: Plan) -> Tensor:
    from lk_downstream.ops.triton_kernels import weight_kernel

    n, c, h, width = image.shape
    kh, kw = size
    box = frame(width, kw, plan.columns, plan.columns)
    blocks = box.depth // plan.columns
    chunks = -(-(kh + plan.group - 1) // plan.rows)
    part = image.new_empty(c, blocks, chunks * plan.rows, plan.group, kw, dtype=torch.float32)
    with _on(image.device):
        weight_kernel[(blocks * chunks, c)](
            image, grads, part,
            n, c, h, width // 8, kh, kh // 2,
            KW=kw, ORIGIN=box.origin, TAP0=box.tap, UB=blocks, A=plan.rows, BU=plan.columns, BV=plan.columns,
            BK=plan.depth, S=plan.group, BJ=min(16, 2 ** math.ceil(math.log2(kw))), PRECISION=precision(image.dtype),
            WIDEN=interpreted() and image.dtype == torch.bfloat16,
            num_warps=plan.warps, num_stages=plan.stages,
        )  # fmt: skip
    # Kernel row i is the sum over b of the numbers at (a, b) = (i + b, b).
    by_c, by_block, by_a, by_b, _ = part.stride()
    rows = part.as_strided((c, blocks, kh, plan.group, kw), (by_c, by_block, by_a, by_a + by_b, 1))
    return rows.sum((1, 3)).to(image.dtype).unsqueeze(1)


def _on(device: torch.device):
    """Makes ``device`` the current one, as a launch needs it."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


# ---------------------------------------------------------------- choosing block sizes

_PLANS: dict[Hashable, Plan] = {}


def _tuned(
    key: Hashable, plans: Callable[[], list[Plan]], launch: Callable[[Plan], Tensor], reference: Callable[[], Tensor]
) -> Plan:
    """The fastest plan for this kind of shape. A plan that fails, or disagrees with PyTorch, is never used.

    Raises:
        RuntimeError: no plan works, or memory was short.
    """
    if key in _PLANS:
        return _PLANS[key]
    if interpreted():
        return _PLANS.setdefault(key, plans()[0])
    if torch.cuda.is_current_stream_capturing():
        return plans()[0]  # nothing can be measured inside a CUDA graph: run once before capturing
    with choice.MEASURING:
        if key not in _PLANS:  # else another thread has measured in the meantime
            _PLANS[key] = _measured(key, plans()[:TIMED_PLANS], launch, reference())
        return _PLANS[key]


def _measured(key: Hashable, plans: list[Plan], launch: Callable[[Plan], Tensor], expected: Tensor) -> Plan:
    from triton.testing import do_bench

    best, fastest, problem = math.inf, None, "no block sizes fit"
    for plan in plans:
        try:
            off = _distance(launch(plan), expected)
            if not off < 2e-2:
                problem = f"a result was off by {off:.1e}"
                continue
            taken = do_bench(lambda plan=plan: launch(plan), warmup=5, rep=20, return_mode="median")
        except Exception as failure:  # a compiler's own errors have no common base class
            if choice.is_out_of_memory(failure):
                raise
            problem = f"{type(failure).__name__}: {failure}".splitlines()[0]
            continue
        if taken < best:
            best, fastest = taken, plan
    if fastest is None:
        raise RuntimeError(f"no Triton kernel works for {key}: {problem}")
    return fastest


def _distance(result: Tensor, expected: Tensor) -> float:
    got = result[: expected.shape[0], : expected.shape[1]].double()
    return (torch.linalg.vector_norm(got - expected) / torch.linalg.vector_norm(expected)).item()


def _reference_forward(image: Tensor, weight: Tensor, bias: Tensor | None, w: int) -> Tensor:
    """PyTorch's result in float64 for one image and at most two channels."""
    some = slice(0, 2)
    pads = (weight.shape[2] // 2, weight.shape[3] // 2)
    bias = bias[some].double() if bias is not None else None
    few = image[:1, some].double()
    return F.conv2d(few, weight[some].double(), bias, padding=pads, groups=few.shape[1])[..., :w]


def _reference_weight(grads: Tensor, image: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient in float64 for at most two channels."""
    some = slice(0, 2)
    few, of = image[:, some].double(), grads[:, some].double()
    kernel = few.new_zeros(few.shape[1], 1, *size)
    pads = [size[0] // 2, size[1] // 2]
    return torch.ops.aten.convolution_backward(
        of, few, kernel, None, [1, 1], pads, [1, 1], False, [0, 0], few.shape[1], [False, True, False]
    )[1]
