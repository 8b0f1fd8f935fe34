"""Where the time goes: the largest shares of a training step, by kind of operator, and of the pipelines, by function.

A step is that of UPerNet with its auxiliary head and AdamW, for each of the backbones. Pipelines are those of
``pipeline``, in one process.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks import pipeline, step
from benchmarks.sides import SHARE, Race

ROUNDS = 2
LARGEST = 5
# kind -> what the names of its operators contain, of the outermost operator that has one of these
KINDS = {
    "convolutions": ("conv", "Convolution", "Conv"),
    "linear layers": ("linear", "addmm", "matmul", "::mm", "::bmm", "AddmmBackward", "MmBackward", "LinearBackward"),
    "norms": ("norm", "Norm"),
    "activations": ("gelu", "relu", "Gelu", "Relu"),
    "resized maps": ("upsample", "Upsample", "_Joined", "aten::cat", "CatBackward"),
    "loss": ("softmax", "Softmax", "nll_loss", "NllLoss", "cross_entropy"),
    "optimizer": ("Optimizer.step", "Optimizer.zero_grad"),
    "gradients added up": ("AccumulateGrad",),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="*", choices=pipeline.TASKS, default=pipeline.TASKS, help="of the pipelines")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument(
        "--segmentors", nargs="*", default=("convnext_tiny", "replknet_31b", "slak_tiny"), help="of the steps"
    )
    parser.add_argument("--crop", type=int, default=512, help="side of the images of the steps")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)


def races(options: argparse.Namespace) -> Iterator[Race]:
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    for name in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            yield _pipeline(name, Path(folder), options)
    for name in options.segmentors:
        yield _step(name, options)
    torch.set_num_threads(threads)


def _pipeline(name: str, folder: Path, options: argparse.Namespace) -> Race:
    """Per cent of the time of each function, without those that it calls."""
    run = pipeline.own(name, folder, options.images)
    run()
    found: list[Counter[str]] = []
    for _ in range(options.rounds):
        profiler = cProfile.Profile()
        profiler.runcall(run)
        stats = pstats.Stats(profiler).stats
        found.append(Counter({_name(*key): value[2] for key, value in stats.items()}))
    return Race(f"shares of the {name} pipeline", f"{options.images} images, one process", SHARE, _largest(found))


def _name(file: str, line: int, function: str) -> str:
    return function if file == "~" else f"{Path(file).stem}.{function}"


def _step(name: str, options: argparse.Namespace) -> Race:
    """Per cent of the time of each kind of operator; what belongs to none goes by its own name."""
    _, run = step.own_step(name, options.batch, options.crop)
    run()
    found = []
    for _ in range(options.rounds):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            run()
        found.append(_by_kind(profiler.events()))
    conditions = f"{name}, {options.batch} images of {options.crop} x {options.crop}, "
    conditions += f"{options.threads} thread{'s' * (options.threads > 1)}"
    return Race("shares of the UPerNet training step", conditions, SHARE, _largest(found, len(KINDS)))


def _by_kind(events: Iterable[FunctionEvent]) -> Counter[str]:
    times: Counter[str] = Counter()
    for event in events:
        times[_kind(event)] += event.self_cpu_time_total
    return times


def _kind(event: Any) -> str:
    kind = None
    own = event.name
    while event is not None:
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.name for part in parts)), kind)
        event = event.cpu_parent
    return kind or own


def _largest(found: list[Counter[str]], count: int = LARGEST) -> dict[str, list[float]]:
    """The largest over all rounds, and the rest."""
    together = sum(found, Counter())
    names = [name for name, _ in together.most_common(count)]
    shares = {name: [100 * times[name] / times.total() for times in found] for name in names}
    return {**shares, "all others": [100 - sum(values) for values in zip(*shares.values())]}
