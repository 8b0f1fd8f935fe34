"""Speed of the large-kernel convolution and of networks that use it, against plain PyTorch in the same run.

All sides of a comparison are measured in turn, round after round, so that a busy machine slows them alike; medians
count. Both our operator and PyTorch's are measured on maps in either layout.
"""

from __future__ import annotations

import copy
import csv
import functools
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lk_downstream.ops.large_kernel import depthwise_conv2d
from lk_downstream.ops.module import LargeKernelConv2d, accelerate

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTHORS = "authors, contiguous"  # networks as their authors have them, see `networks`
CONTIGUOUS = "plain, contiguous"  # what that comes to for a single layer
FFT = "FFT, contiguous"
LEAST = 0.02  # seconds of one measurement


@dataclass
class Row:
    """One case: what was measured, and the median seconds, spread and memory of each side.

    Attributes:
        case: the shape or the network.
        mode: ``forward``, ``forward+backward``, ``inference``, ``merged``, ``deep`` or ``training``.
        side: ``ours``, ``plain`` (PyTorch's operator), ``FFT`` (a product of spectra) or ``authors``, and the layout of
            the maps.
        seconds: median over the rounds.
        slowest: largest over the rounds, for the spread.
        times_authors: the median of the authors' form, for layers of plain PyTorch in the contiguous layout, over this.
        times_best: the median of plain PyTorch in its better layout, or of FFT if that is less, over this one.
        memory: peak MiB on the GPU; not a number on the CPU.
        images: images a second, for networks.
    """

    case: str
    mode: str
    side: str
    seconds: float
    slowest: float
    times_authors: float
    times_best: float
    memory: float = math.nan
    images: float = math.nan


def measure(sides: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, tuple[list, float]]:
    """Seconds of every round, and peak MiB, of each side; one more round goes first to warm up (and to tune).

    What takes less than ``LEAST`` seconds is run several times in a round, since one call after another side's leaves
    the time to fill the caches again, which a network does not spend.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    memory = dict.fromkeys(sides, math.nan)
    gpu = device.type == "cuda"
    timed = {}
    for name, run in sides.items():
        run()
        times = max(1, round(LEAST / max(_seconds(run, 1, gpu), 1e-6)))
        timed[name] = functools.partial(_seconds, run, times, gpu)
    for _ in range(rounds):
        for name, side in timed.items():
            if gpu:
                torch.cuda.reset_peak_memory_stats(device)
            taken[name].append(side())
            memory[name] = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else math.nan
    return {name: (taken[name], memory[name]) for name in sides}


def _seconds(run: Callable[[], object], times: int, gpu: bool) -> float:
    if gpu:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    if gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def rows_of(case: str, mode: str, measured: dict[str, tuple[list, float]], images: int = 0) -> list[Row]:
    """The rows of one case."""
    medians = {name: statistics.median(taken) for name, (taken, _) in measured.items()}
    best = min(median for name, median in medians.items() if name.startswith(("plain", "FFT")))
    authors = medians.get(AUTHORS, medians.get(CONTIGUOUS, math.nan))
    return [
        Row(
            case,
            mode,
            name,
            medians[name],
            max(taken),
            authors / medians[name],
            best / medians[name],
            memory,
            images / medians[name] if images else math.nan,
        )
        for name, (taken, memory) in measured.items()
    ]


def plain_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's convolution of maps as they lie."""
    return F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def layers(
    batch: int = 64,
    channels: int = 384,
    sizes: Iterable[int] = (16, 32, 64),
    kernels: Iterable[int] = (3, 5, 7, 9, 13, 17, 21, 27, 29, 31),
    depth: int = 24,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rounds: int = 5,
    backward: bool = True,
    contiguous: bool = True,
) -> Iterable[list[Row]]:
    """Table 1 of the RepLKNet paper (Ding et al. 2022): a stack of depthwise convolutions, one case after another.

    Args:
        batch: N of the maps (N, C, R, R).
        channels: their C.
        sizes: their R, one case each.
        kernels: sides of the square kernels, one case each.
        depth: layers in the stack, each with weights of its own. The defaults of these five are the paper's.
        device: to run on.
        dtype: to run in.
        rounds: measurements of each side.
        backward: also measure forward plus both gradients.
        contiguous: measure plain PyTorch in the contiguous layout (on CPUs 40 times slower).
    """
    device = torch.device(device)
    for size in sizes:
        for kernel in kernels:
            x = torch.randn(batch, channels, size, size, device=device, dtype=dtype)
            weights = [
                torch.randn(channels, 1, kernel, kernel, device=device, dtype=dtype) / kernel for _ in range(depth)
            ]

            def forward(operator, layout, x=x, weights=weights) -> None:
                with torch.no_grad():
                    out = x.contiguous(memory_format=layout)
                    for weight in weights:
                        out = operator(out, weight)

            def both(operator, layout, x=x, weights=weights) -> None:
                out = x.contiguous(memory_format=layout).detach().requires_grad_()
                leaves = [weight.detach().requires_grad_() for weight in weights]
                for weight in leaves:
                    out = operator(out, weight)
                out.backward(torch.ones_like(out))

            for mode, run in (("forward", forward), ("forward+backward", both))[: 1 + backward]:
                sides = {
                    f"{prefix}, {name}": lambda run=run, operator=operator, layout=layout: run(operator, layout)
                    for prefix, operator in (("ours", depthwise_conv2d), ("plain", plain_conv2d))
                    for name, layout in LAYOUTS.items()
                }
                by_fft = functools.partial(depthwise_conv2d, backend="fft")
                sides[FFT] = functools.partial(run, by_fft, torch.contiguous_format)
                if not contiguous:
                    del sides[CONTIGUOUS]
                case = f"{depth} x {kernel}x{kernel}, ({batch}, {channels}, {size}, {size})"
                yield rows_of(case, mode, measure(sides, rounds, device))


def networks(
    build: Callable[[str], nn.Module],
    merge: Callable[[nn.Module, bool], nn.Module],
    authors: Callable[[nn.Module], nn.Module | None],
    names: Iterable[str],
    sizes: Iterable[int] = (224,),
    batch: int = 64,
    modes: Iterable[str] = ("inference", "merged", "training"),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rounds: int = 5,
) -> Iterable[list[Row]]:
    """Images a second of whole networks, with our operator and with PyTorch's in its place.

    Args:
        build: name -> model that gives logits.
        merge: model, and whether all norms are to be folded -> its merged copy.
        authors: model -> its authors' form: PyTorch's operator, nothing merged, maps contiguous from end to end; None
            where there is none.
        names: of models.
        sizes: heights (and widths) of the images.
        batch: images at once.
        modes: ``inference``, ``merged`` and ``deep`` (inference of the merged model, the latter with all norms folded),
            and ``training`` (forward and backward). The authors' form is never merged.
        device: to run on.
        dtype: float32, or a 16-bit type for autocast.
        rounds: measurements of each side.
    """
    device = torch.device(device)
    for name in names:
        for mode in modes:
            base = build(name).to(device).train(mode == "training")
            theirs = authors(copy.deepcopy(base))
            base = merge(base, mode == "deep") if mode in ("merged", "deep") else base
            accelerate(base)
            # Two copies: depthwise weights that were once channels_last keep strides that make PyTorch pick it.
            models = {name: copy.deepcopy(base).to(memory_format=layout) for name, layout in LAYOUTS.items()}
            for size in sizes:
                images = torch.randn(batch, 3, size, size, device=device)
                laid_out = {layout: images.contiguous(memory_format=form) for layout, form in LAYOUTS.items()}
                sides = {
                    f"{prefix}, {layout}": _network_run(
                        models[layout], laid_out[layout], backend, mode == "training", dtype
                    )
                    for prefix, backend in (("ours", "auto"), ("plain", "plain"))
                    for layout in LAYOUTS
                }
                if theirs is not None:
                    sides[AUTHORS] = _network_run(theirs, laid_out["contiguous"], "plain", mode == "training", dtype)
                yield rows_of(f"{name}, {batch} x {size}", mode, measure(sides, rounds, device), batch)
            del base, theirs, models
            gc.collect()


def _network_run(
    model: nn.Module, images: Tensor, backend: str, training: bool, dtype: torch.dtype
) -> Callable[[], None]:
    """One step. The backend is switched for it, so that both sides share one set of weights."""

    def run() -> None:
        for module in model.modules():
            if isinstance(module, LargeKernelConv2d):
                module.backend = backend
        kind = images.device.type
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(training):
            out = model(images)
        if training:
            out.float().mean().backward()
            model.zero_grad(set_to_none=True)

    return run


# ---------------------------------------------------------------- results


def show(rows: Iterable[list[Row]], title: str, console: Console | None = None) -> list[Row]:
    """Print a table of the rows and return them in one list; each case is also printed when it is done."""
    console = console or Console()
    console.width = max(console.width, 130)
    table = Table(title=title)
    for name in ("case", "mode", "side", "ms", "slowest", "x authors", "x best plain", "MiB", "images/s"):
        text = name in ("case", "mode", "side")
        table.add_column(name, justify="left" if text else "right", no_wrap=text)
    flat = []
    for group in rows:
        flat += group
        for row in group:
            times = (1e3 * row.seconds, 1e3 * row.slowest, row.times_authors, row.times_best)
            table.add_row(row.case, row.mode, row.side, *map(_short, (*times, row.memory, row.images)))
        table.add_section()
        best = max(row.times_best for row in group if row.side.startswith("ours"))
        console.print(
            f"{group[0].case}, {group[0].mode}: ours {best:.2f} times as fast as plain at its best", style="dim"
        )
    console.print(table)
    return flat


def _short(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def save_csv(rows: list[Row], path: Path) -> None:
    """One line per row, with all its fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def save_plot(rows: list[Row], path: Path, title: str) -> None:
    """Bars of milliseconds per case and side, on a logarithmic axis, one panel per mode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row.mode for row in rows))
    cases = list(dict.fromkeys(row.case for row in rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    figure = Figure(figsize=(4 + 5 * len(modes), 1.5 + 0.45 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes):
        for number, side in enumerate(sides):
            found = {row.case: row for row in rows if row.mode == mode and row.side == side}
            heights = [1e3 * found[case].seconds if case in found else math.nan for case in cases]
            axis.barh([i + 0.8 * number / len(sides) for i in range(len(cases))], heights, 0.8 / len(sides), label=side)
        axis.set(xscale="log", xlabel="ms (median)", title=mode)
        axis.set_yticks([i + 0.4 - 0.4 / len(sides) for i in range(len(cases))], cases)
        axis.invert_yaxis()
        axis.legend()
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
