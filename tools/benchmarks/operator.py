"""The large-kernel convolution at the sizes of the networks, against each of the ways that PyTorch has.

Every side takes maps in a layout and gives them back in it. Weights do not change, as in inference. A lesser CPU is
rehearsed by ``ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2`` before the command, which PyTorch and oneDNN read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.sides import OURS, Race, shares
from lk_downstream.analysis.latency import LAYOUTS, LEAST
from lk_downstream.ops import cpu, depthwise_conv2d

ROUNDS = 5
SLOW = 1.0  # seconds
# network -> channels and kernel of its stages
NETWORKS = {
    "replknet_31b": ((128, (31, 31)), (256, (29, 29)), (512, (27, 27)), (1024, (13, 13))),
    "slak_tiny": ((124, (51, 5)), (249, (49, 5)), (499, (47, 5)), (998, (13, 5))),
    "convnext_tiny": ((96, (7, 7)), (192, (7, 7)), (384, (7, 7)), (768, (7, 7))),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=tuple(NETWORKS))
    parser.add_argument("--sizes", type=int, nargs="+", default=(224, 512), help="sides of the images")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 8))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))


def races(options: argparse.Namespace) -> Iterator[Race]:
    before = torch.get_num_threads()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for dtype in options.dtypes:
            for network in options.networks:
                for stage, (channels, kernel) in enumerate(NETWORKS[network]):
                    for size in options.sizes:
                        for batch in options.batches:
                            shape = (batch, channels, *[size >> 2 + stage] * 2)
                            for layout in LAYOUTS:
                                yield _race(shape, kernel, layout, getattr(torch, dtype), threads, options.rounds)
    torch.set_num_threads(before)


def _race(shape: tuple, kernel: tuple, layout: str, dtype: torch.dtype, threads: int, rounds: int) -> Race:
    """Milliseconds of each side."""
    memory_format = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(shape[1], 1, *kernel, generator=generator).to(dtype)
    ways = {name: lambda x, w, way=way: way(x, w, None) for name, way in cpu.FORWARD.items()}
    ways[OURS] = depthwise_conv2d

    def run(name: str) -> None:
        with torch.no_grad():
            ways[name](x, weight).contiguous(memory_format=memory_format)

    said = f"{shape}, {layout}, {str(dtype).removeprefix('torch.')}, {threads} thread{'s' * (threads > 1)}"
    return Race(f"{kernel[0]}x{kernel[1]}", said, "ms", shares(_measured(run, list(ways), rounds), 1e-3))


def _measured(run: Callable[[str], None], names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each of the rounds; of those that take longer than ``SLOW`` once."""

    def seconds(name: str, times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            run(name)
        return (time.perf_counter() - began) / times

    taken, times = {}, {}
    run(OURS)  # which chooses its way
    for name in names:
        first = seconds(name, 1)
        taken[name] = [first]
        if first < SLOW:
            times[name] = max(1, round(LEAST / seconds(name, 1)))
            taken[name] = []
    for _ in range(rounds):
        for name, number in times.items():
            taken[name].append(seconds(name, number))
    return taken
