"""The large-kernel depthwise convolution on CPUs: several formulations of the same sum, for every size its best.

PyTorch's contiguous convolution falls back to an image-to-column product for most large kernels (about 5 GFLOP/s on
a core that does 100), its channels-last one runs a blocked direct kernel, and its gradient of the weight is slow in
both layouts. Nothing is compiled here: the same sums are handed to those routines of PyTorch that are fast.

* forward, and gradient of the input (the forward pass with flipped kernels): ``contiguous``, ``channels_last``
  (converted there and back where needed) and ``fft``;
* gradient of the weight: ``native`` (PyTorch's), ``images`` (the output gradients are convolved over the images, as
  if they were kernels), ``lines`` (for each kernel row, one product of image rows with gradient rows, summed along
  its diagonals) and ``fft``.

Names that end in ``_float32`` compute in float32 and round once at the end, for bfloat16 and float16.
All functions take odd kernels, stride 1 and padding (kh // 2, kw // 2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.ops.weight_cache import WEIGHT_CACHE

ForwardPath = Callable[[Tensor, Tensor, Tensor | None], Tensor]
WeightPath = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]

FFT_BYTES = 2**20  # spectra in flight at once, per thread: what stays in the second-level cache
REDUCED = (torch.bfloat16, torch.float16)
# PyTorch 2.15's 16-bit routines never end on 2 to 16 channels of 30 columns and more with kernels of 15 and more.
FEWEST_CHANNELS = 17


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The layout in which ``x`` lies, and in which results are returned: contiguous where both or neither apply."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


@functools.lru_cache(maxsize=1024)
def fast_length(least: int) -> int:
    """The smallest even number without a prime factor above 5 that is not below ``least``."""
    length = least + least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def _channels_per_pass(n: int, lengths: tuple[int, int], itemsize: int) -> int:
    """How many channels to transform at once on a CPU: what its cache holds, and at least one map for each thread."""
    threads = torch.get_num_threads()
    step = FFT_BYTES * threads // (n * lengths[0] * (lengths[1] + 2) * itemsize)
    return max(step, -(-threads // n))


# ---------------------------------------------------------------- forward


def contiguous(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d on contiguous tensors."""
    return _conv2d(x.contiguous(), weight.contiguous(), bias)


def channels_last(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d on channels-last tensors."""
    return _conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d on the tensors as they are, or on more channels where it would not end."""
    c = x.shape[1]
    if x.dtype in REDUCED and c < FEWEST_CHANNELS and x.device.type == "cpu":
        more = FEWEST_CHANNELS - c
        bias = F.pad(bias, (0, more)) if bias is not None else None
        return _conv2d(F.pad(x, (0, 0) * 2 + (0, more)), F.pad(weight, (0, 0) * 3 + (0, more)), bias)[:, :c]
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=c)


def _kernel_spectrum(weight: Tensor, lengths: tuple[int, int]) -> Tensor:
    """Conjugate spectrum (C, L0, L1 // 2 + 1) of the kernels (C, 1, kh, kw), their centre moved to the origin."""
    kh, kw = weight.shape[2:]
    if weight.dtype in REDUCED:
        weight = weight.float()
    padded = F.pad(weight[:, 0], (0, lengths[1] - kw, 0, lengths[0] - kh))
    return torch.fft.rfft2(torch.roll(padded, (-(kh // 2), -(kw // 2)), (1, 2))).conj_physical()


def fft(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Product of spectra. The error is relative to the largest value of a map, not to each value.

    A length of H + kh // 2 is enough: what wraps around falls outside of the H rows that are kept. Channels are done
    a few at a time, so that their spectra stay in the cache, which halves the time of a large batch.
    """
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    lengths = (fast_length(h + kh // 2), fast_length(w + kw // 2))
    spectrum = WEIGHT_CACHE.get(weight, ("fft", lengths), lambda: _kernel_spectrum(weight, lengths))
    kind = torch.float32 if x.dtype in REDUCED else x.dtype
    out = torch.empty_like(x, memory_format=memory_format_of(x))
    step = _channels_per_pass(n, lengths, kind.itemsize) if x.device.type == "cpu" else c
    for first in range(0, c, step):
        part = slice(first, first + step)
        product = torch.fft.rfft2(x[:, part].to(kind), lengths).mul_(spectrum[part])
        result = torch.fft.irfft2(product, lengths)[..., :h, :w]
        if bias is not None:
            result = result + bias[part].view(-1, 1, 1)
        out[:, part] = result
    return out


# ---------------------------------------------------------------- gradient of the weight


def weight_native(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """PyTorch's own gradient, in the layout of the input."""
    c = x.shape[1]
    weight = x.new_empty(c, 1, *size)
    pads = [size[0] // 2, size[1] // 2]
    grad = grad.contiguous(memory_format=memory_format_of(x))
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], pads, [1, 1], False, [0, 0], c, [False, True, False]
    )[1]


def weight_images(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient maps as kernels: N * C channels of size (H, W) convolved by (H, W) give (kh, kw), summed over N."""
    n, c, h, w = x.shape
    maps = x.reshape(1, n * c, h, w).contiguous(memory_format=torch.channels_last)
    kernels = grad.reshape(n * c, 1, h, w)
    out = F.conv2d(maps, kernels, padding=(size[0] // 2, size[1] // 2), groups=n * c)
    return out.reshape(n, c, *size).sum(0).unsqueeze(1)


def weight_lines(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Products of lines along the longer side of the kernel, one for each step along the shorter."""
    if size[0] > size[1]:
        return _weight_rows(grad.transpose(2, 3), x.transpose(2, 3), (size[1], size[0])).transpose(2, 3).contiguous()
    return _weight_rows(grad, x, size)


def _weight_rows(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    n, c, h, w = x.shape
    (kh, kw), pad = size, size[1] // 2
    width = w + 2 * pad
    # (C, rows, N, W): a shift by one kernel row is a slice, and rows x N flatten without a copy.
    images = F.pad(x, (0, 0, kh // 2, kh // 2)).permute(1, 2, 0, 3).contiguous()
    grads = grad.permute(1, 3, 2, 0).reshape(c, w, h * n)
    # Row v of a product holds columns u of the image; with the padding in place, tap j = u - v + pad of row v stands
    # at v + j, so that rows of length width read with a stride of width + 1 line the diagonals up.
    product = x.new_zeros(c, w, width)
    diagonals = product.as_strided((c, w, kw), (w * width, width + 1, 1))
    out = x.new_empty(c, 1, kh, kw)
    for row in range(kh):
        product[..., pad : pad + w] = torch.bmm(grads, images[:, row : row + h].reshape(c, h * n, w))
        torch.sum(diagonals, 1, out=out[:, 0, row])
    return out


def weight_fft(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Product of spectra, summed over the images before it is transformed back."""
    n, c, h, w = x.shape
    kh, kw = size
    lengths = (fast_length(h + kh // 2), fast_length(w + kw // 2))
    kind = torch.float32 if x.dtype in REDUCED else x.dtype
    out = x.new_empty(c, 1, kh, kw)
    step = _channels_per_pass(2 * n, lengths, kind.itemsize) if x.device.type == "cpu" else c
    for first in range(0, c, step):
        part = slice(first, first + step)
        product = torch.fft.rfft2(grad[:, part].to(kind), lengths).conj_physical_()
        product = product.mul_(torch.fft.rfft2(x[:, part].to(kind), lengths)).sum(0)
        lags = torch.fft.irfft2(product, lengths)
        out[part, 0] = torch.roll(lags, (kh // 2, kw // 2), (1, 2))[:, :kh, :kw].to(x.dtype)
    return out


# ---------------------------------------------------------------- tables


def _forward_in_float32(path: ForwardPath) -> ForwardPath:
    """``path`` computed in float32 and rounded at the end: often faster than PyTorch's own 16-bit routine."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        bias = bias.float() if bias is not None else None
        return path(x.float(), weight.float(), bias).to(x.dtype)

    return run


def _weight_in_float32(path: WeightPath) -> WeightPath:
    def run(grad: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
        return path(grad.float(), x.float(), size).to(x.dtype)

    return run


FORWARD: dict[str, ForwardPath] = {"contiguous": contiguous, "channels_last": channels_last, "fft": fft}
FORWARD_REDUCED: dict[str, ForwardPath] = {
    **FORWARD,
    "channels_last_float32": _forward_in_float32(channels_last),
    "contiguous_float32": _forward_in_float32(contiguous),
}
WEIGHT: dict[str, WeightPath] = {
    "native": weight_native,
    "images": weight_images,
    "lines": weight_lines,
    "fft": weight_fft,
}
# Sums over a batch must not be rounded to 16 bits between the steps: the two that would are done in float32.
WEIGHT_REDUCED: dict[str, WeightPath] = {
    "native": weight_native,
    "fft": weight_fft,
    "images_float32": _weight_in_float32(weight_images),
    "lines_float32": _weight_in_float32(weight_lines),
}


# ---------------------------------------------------------------- by rule, where nothing may be measured


def _rates(x: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """(direct, fft): seconds on one core of 2023 for a direct sum at 80 GFLOP/s, and for the passes of an FFT."""
    n, c, h, w = x.shape
    kh, kw = size
    points = fast_length(h + kh // 2) * fast_length(w + kw // 2)
    # Taps on the map only, a sum over the distances between two rows (and columns) of it.
    rows = sum(max(h - abs(i), 0) for i in range(-(kh // 2), kh // 2 + 1))
    columns = sum(max(w - abs(j), 0) for j in range(-(kw // 2), kw // 2 + 1))
    return 2 * n * c * rows * columns / 80e9, (n + 0.5) * c * points * 4.5e-9


def ruled_forward(x: Tensor, size: tuple[int, int]) -> str:
    """A fixed choice among ``FORWARD`` from operation counts."""
    direct, by_fft = _rates(x, size)
    return "fft" if by_fft < direct else "channels_last"


def ruled_weight(x: Tensor, size: tuple[int, int]) -> str:
    """A fixed choice among ``WEIGHT`` (or ``WEIGHT_REDUCED``) from operation counts."""
    direct, by_fft = _rates(x, size)
    other = "images_float32" if x.dtype in REDUCED else "images"
    return "fft" if by_fft < 2 * direct else other
