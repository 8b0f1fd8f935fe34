"""Triton kernels of the large-kernel depthwise convolution: forward (also input gradient) and weight gradient.

**The form.** For one channel and one kernel row i, the output rows are the image rows, shifted by i, times a banded
Toeplitz matrix of that kernel row: ``T_i[u, v] = w[i, u - v + pw]``. A tile of the output has

* as rows the pairs (n, g) of an image and a group of ``S`` output rows ``g S .. g S + S - 1``,
* as columns the pairs (yy, v) of a row inside the group and one of ``BN`` output columns.

An image row ``r = g S + t - ph`` meets kernel row ``i = t - yy`` for each yy, so a step t multiplies image rows
(BM x BK) by the S neighbouring Toeplitz blocks ``[T_t | T_(t-1) | ...]`` (BK x S BN). S = 1 is the plain form; a
larger S loads each image row once for S output rows, which is what keeps the tensor cores and not the second-level
cache busy, at (kh + S - 1) / kh times the products. The Toeplitz blocks are written out once per call (``bank``): they
hold for every image and every tile of columns, since padding is done by masks. Steps whose rows all lie outside of
the map, and blocks of columns outside of it, are skipped: a map as wide as the kernel wastes almost nothing.

**The count**, for (N, C, H, W) = (64, 384, 32, 32), 31 x 31, bf16, tile BM = 64 (one g), S = 8, BN = BK = 32:

* needed: every tap on the map once, 2 * 64 * 384 * (sum over y of the rows on the map = 784)^2 = 30.2 GFLOP;
* done: steps (23 + 31 + 31 + 23 of 38 for the four groups) * 32 * (8 * 32) * 2 * 64 * 384 = 43.5 GFLOP, 1.44 times
  that; at 800 TFLOP/s (a large matrix product on an H100 or H200) 54 us;
* device memory: image in and out 2 * 50.3 MB, bank 384 * 31 * 32 * 32 * 2 B = 24.4 MB written and read once: 149 MB,
  at 4 TB/s 37 us (25 us for image in and out alone). Arithmetic is the larger: 38 us for the needed operations, 54 us
  for those done;
* second-level cache: per step 64 * 32 * 2 B = 4 KB of image and 16 KB of bank for 64 * 256 * 32 products, as in a
  matrix product with tiles of 64 x 256; 14 of the 16 KB were read at the step before, one block to the left, and can
  come from the first-level cache (CACHE; whether that is faster is measured, as the block sizes are).

channels_last maps are copied to contiguous ones and back (four more passes over the maps, 201 MB here), kernels taller
than wide run on the transposed map (the same four passes), and a width that is no multiple of 8 is padded in a copy.

**Weight gradient.** For one channel, image rows ``r = q S + a - ph`` and gradient rows ``y = q S + b`` (b < S,
a < kh + S - 1) have the distance ``i = a - b``: the product over all (n, q) of image columns (a, u) with gradient
columns (b, v) holds ``dw[i, j]`` in the diagonals u - v = j - pw of its blocks. A program accumulates a tile of A
values of a and all of b, sums its diagonals (by a gather that lines them up), and stores (A, S, kw) numbers; pairs
(a, b) with a - b = i are added afterwards: C (kh + S - 1) S kw floats, 14.5 MB at the size above with S = 8. The order
of all sums is fixed, nothing is atomic: the same input gives the same bits. Operations are those of the forward pass,
and so are the bytes, less the bank.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    x,  # (N, C, H, W), contiguous, W = 8 * W8
    bank,  # (C, KH, KB, BN)
    bias,  # (C,) or unused
    y,  # (N, C, H, WO), contiguous, WO = ALIGN * WOQ
    N,
    C,
    H,
    W8,
    WOQ,
    KH,
    PH,
    ORIGIN: tl.constexpr,  # image column of the bank's row 0, relative to the tile's first output column
    KB: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
    CACHE: tl.constexpr,  # ".ca": the bank is read through the first-level cache, "": past it
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # products in float32: Triton's interpreter cannot multiply bfloat16
):
    """One tile of the output of one channel: rows (g, n) with n fastest, columns (yy, v)."""
    # Products with these constants tell the compiler what the widths divide by, so that it loads whole vectors.
    W = W8 * 8
    WO = WOQ * ALIGN
    tiles_v = tl.cdiv(WO, BN)
    v0 = (tl.program_id(0) % tiles_v) * BN
    m0 = (tl.program_id(0) // tiles_v) * BM
    c = tl.program_id(1).to(tl.int64)

    m = m0 + tl.arange(0, BM)
    n = m % N
    g = m // N
    groups = tl.cdiv(H, S)
    col = tl.arange(0, S * BN)
    yy = col // BN
    v = col % BN
    k = tl.arange(0, BK)

    # Steps with at least one row on the map, and blocks with at least one column on it.
    first_group = m0 // N
    last_group = tl.minimum((m0 + BM - 1) // N, groups - 1)
    step_from = tl.maximum(PH - last_group * S, 0)
    step_to = tl.minimum(KH + S - 1, H + PH - first_group * S)
    u0 = v0 + ORIGIN
    block_from = tl.maximum(-u0, 0) // BK
    block_to = tl.minimum(KB // BK, tl.cdiv(W - u0, BK))
    blocks = block_to - block_from

    row0 = g * S - PH
    rows = x + (n.to(tl.int64) * C + c) * H * W + row0.to(tl.int64) * W + u0
    toeplitz = bank + c * KH * KB * BN + (k[:, None] * BN + (v - yy * (KB * BN))[None, :])
    acc = tl.zeros((BM, S * BN), dtype=tl.float32)
    for index in range(0, (step_to - step_from) * blocks):
        t = step_from + index // blocks
        b = (block_from + index % blocks) * BK
        row = row0 + t
        u = u0 + b + k
        on_map = ((m < N * groups) & (row >= 0) & (row < H))[:, None] & ((u >= 0) & (u < W))[None, :]
        left = tl.load(rows[:, None] + (t * W + b + k)[None, :], mask=on_map, other=0.0)
        tap_row = t - yy
        kernel_rows = ((tap_row >= 0) & (tap_row < KH))[None, :]
        right = tl.load(toeplitz + (t * KB + b) * BN, mask=kernel_rows, other=0.0, cache_modifier=CACHE)
        if WIDEN:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)

    if HAS_BIAS:
        acc += tl.load(bias + c).to(tl.float32)
    out_row = (g * S)[:, None] + yy[None, :]
    out_col = v0 + v
    target = y + ((n.to(tl.int64) * C + c) * H * WO)[:, None] + (out_row * WO + out_col[None, :])
    inside = (m < N * groups)[:, None] & (out_row < H) & (out_col < WO)[None, :]
    tl.store(target, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def weight_kernel(
    x,  # (N, C, H, W), contiguous, W = 8 * W8, zero from the true width on
    grad,  # the same shape, likewise
    part,  # (C, UB, AB * A, S, KW) float32
    N,
    C,
    H,
    W8,
    KH,
    PH,
    KW: tl.constexpr,
    ORIGIN: tl.constexpr,  # image column of row 0 of block 0, relative to the tile's first gradient column
    TAP0: tl.constexpr,  # kernel column that row 0 of block 0 has with gradient column 0
    UB: tl.constexpr,
    A: tl.constexpr,
    BU: tl.constexpr,
    BV: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
    BJ: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # products in float32: Triton's interpreter cannot multiply bfloat16
):
    """Products of image columns (a, u) and gradient columns (b, v) of one channel, summed along their diagonals."""
    W = W8 * 8
    ub = tl.program_id(0) % UB
    ab = tl.program_id(0) // UB
    c = tl.program_id(1).to(tl.int64)

    row_index = tl.arange(0, A * BU)
    a = ab * A + row_index // BU
    u = ORIGIN + ub * BU + row_index % BU
    col_index = tl.arange(0, S * BV)
    b = col_index // BV
    v = col_index % BV

    # Groups q of S gradient rows that meet a row of the map for some a of this program.
    lowest = ab * A
    highest = tl.minimum(ab * A + A, KH + S - 1) - 1
    q_from = tl.cdiv(tl.maximum(PH - highest, 0), S)
    q_to = tl.minimum(tl.cdiv(H, S), tl.maximum(H - 1 + PH - lowest + S, 0) // S)
    tiles = tl.cdiv(W, BV)
    total = tl.maximum(q_to - q_from, 0) * tiles * N

    image = c * H * W
    acc = tl.zeros((A * BU, S * BV), dtype=tl.float32)
    for first in range(0, total, BK):
        k = first + tl.arange(0, BK)
        n = k % N
        v0 = ((k // N) % tiles) * BV
        y0 = (q_from + k // (N * tiles)) * S
        start = n.to(tl.int64) * C * H * W + image + y0 * W + v0
        row = y0[None, :] + (a - PH)[:, None]
        column = v0[None, :] + u[:, None]
        on_map = (k < total)[None, :] & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        left = tl.load(x + start[None, :] + ((a - PH) * W + u)[:, None], mask=on_map, other=0.0)
        inside = (k < total)[:, None] & (y0[:, None] + b[None, :] < H) & (v0[:, None] + v[None, :] < W)
        right = tl.load(grad + start[:, None] + (b * W + v)[None, :], mask=inside, other=0.0)
        if WIDEN:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        acc = tl.dot(left, right, acc, input_precision=PRECISION)

    # Tap j of gradient column v is in row j + v - TAP0 of block 0.
    products = tl.reshape(acc, (A, BU, S * BV))
    a_out = ab * A + tl.arange(0, A)
    b_out = tl.arange(0, S)
    base = part + ((c * UB + ub) * (tl.num_programs(0) // UB * A)) * S * KW
    for j0 in tl.static_range(0, KW, BJ):
        j = j0 + tl.arange(0, BJ)
        source = j[:, None] + v[None, :] - (TAP0 + ub * BU)
        exists = (source >= 0) & (source < BU)
        source = tl.where(exists, source, 0)
        lined_up = tl.gather(products, tl.broadcast_to(source[None, :, :], (A, BJ, S * BV)), 1)
        lined_up = tl.where(exists[None, :, :], lined_up, 0.0)
        taps = tl.sum(tl.reshape(lined_up, (A, BJ, S, BV)), 3)
        target = base + (a_out * (S * KW))[:, None, None] + j[None, :, None] + (b_out * KW)[None, None, :]
        tl.store(target, taps, mask=(j < KW)[None, :, None] & (a_out[:, None, None] >= 0) & (b_out[None, None, :] >= 0))
