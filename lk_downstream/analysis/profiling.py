"""What a trained model costs where it runs: latency, throughput, memory and multiply-adds, part by part.

Models are measured beside each other in one run: all sides in turn, round after round, so that a busy machine slows
them alike. A batch is followed from images in memory (uint8) to what a prediction is made of, in one pass: no reading
of files, no sliding window, no averaging over scales, and no resize to an original size.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lk_downstream.analysis.memory import PeakMemory
from lk_downstream.analysis.stages import PARTS, stages, used
from lk_downstream.backbones import reparameterize
from lk_downstream.errors import InputError, near_names
from lk_downstream.machine import device_name
from lk_downstream.tasks import Task

FORMS = ("plain", "merged", "deep")
LARGEST_ROUNDS = 10_000


@dataclass(frozen=True)
class Part:
    """What a part of a model costs: the backbone, the head with its neck, or the rest around them.

    Attributes:
        parameters: numbers in its parameters.
        macs: multiply-adds of one image in convolutions and matrix products (which adaptive pooling is, too).
        latency: median seconds of a batch.
    """

    parameters: int
    macs: int
    latency: float


@dataclass(frozen=True)
class Profile:
    """What a model costs at one size and batch; plain data, ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        name: of the model, as given.
        form: ``plain``, or ``merged`` as for inference, or ``deep``, with all norms folded too.
        height: of the images, in pixels.
        width: likewise.
        batch: images at once.
        device: name of the GPU, or the number of CPU threads.
        dtype: ``float32``, or the 16-bit type of autocast.
        parameters: numbers in the parameters that inference uses.
        nonzero: those of them that are not 0, which alone SLaK's authors count.
        macs: multiply-adds of one image. Those of two-stage detectors are for as many regions as were found.
        latency: median seconds of a batch over the rounds.
        fast: their lower quartile.
        slow: their upper quartile.
        throughput: images a second, by the median.
        memory: peak MiB: the weights and what a batch needs at most beyond them. On a GPU by its allocator, elsewhere
            by the tensors that operators return, without their workspaces.
        parts: by ``backbone``, ``head`` and ``rest``.
    """

    name: str
    form: str
    height: int
    width: int
    batch: int
    device: str
    dtype: str
    parameters: int
    nonzero: int
    macs: int
    latency: float
    fast: float
    slow: float
    throughput: float
    memory: float
    parts: dict[str, Part]


def profile_task(
    task: Task,
    size: int | tuple[int, int],
    batch: int = 1,
    merged: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    rounds: int = 10,
) -> Profile:
    """What a trained task costs, such as one of :func:`lk_downstream.tasks.load_task`; see :func:`profile_tasks`.

    Args:
        task: of any kind; it is left as it is, on its device and in its mode.
        size: side, or height and width, of the images.
        batch: images at once.
        merged: in the form for inference.
        device: to run on; None: the GPU if there is one.
        dtype: float32, or a 16-bit type for autocast.
        rounds: measurements, of which the median counts.

    Raises:
        InputError: the model does not take images of this size, or they do not fit into the memory.
    """
    size = (size, size) if isinstance(size, int) else size
    form = "merged" if merged else "plain"
    return profile_tasks({type(task).__name__: task}, [size], [batch], [form], device, dtype, rounds)[0]


def profile_tasks(
    tasks: Mapping[str, Task],
    sizes: Iterable[tuple[int, int]],
    batches: Iterable[int] = (1,),
    forms: Sequence[str] = FORMS[:2],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    rounds: int = 10,
) -> list[Profile]:
    """What some trained tasks cost beside each other.

    The images are noise, of which a trained detector finds little: what it suppresses of many objects costs more.

    Args:
        tasks: by the names to show; they are left as they are.
        sizes: heights and widths of the images.
        batches: images at once.
        forms: of :data:`FORMS`.
        device: to run on; None: the GPU if there is one.
        dtype: float32, or a 16-bit type for autocast.
        rounds: measurements of each.

    Returns:
        For each size and batch, one for each task and form.

    Raises:
        InputError: a model does not take images of a size, they do not fit into the memory, or a number is wrong.
    """
    sizes, batches = list(sizes), list(batches)
    if min(*(side for size in sizes for side in size), *batches, rounds) < 1 or rounds > LARGEST_ROUNDS:
        raise InputError(f"profile: sizes, batches and rounds are at least 1, rounds at most {LARGEST_ROUNDS}")
    if odd := [form for form in forms if form not in FORMS]:
        raise InputError(f"profile: forms are {', '.join(FORMS)}, not {odd[0]!r}{near_names(odd[0], FORMS)}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sides = {(name, form): _Side(task, form, device, dtype) for name, task in tasks.items() for form in forms}
    profiles = []
    for size in sizes:
        macs = {key: side.multiply_adds(size) for key, side in sides.items()}
        for batch in batches:
            images = {key: side.noise(batch, size) for key, side in sides.items()}
            memory = {key: side.peak_memory(images[key]) for key, side in sides.items()}
            taken: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in sides}
            for _ in range(rounds):
                for key, side in sides.items():
                    taken[key].append(side.seconds(images[key]))
            profiles += [
                side.profile(*key, size, batch, macs[key], taken[key], memory[key]) for key, side in sides.items()
            ]
    return profiles


# ---------------------------------------------------------------- one model


class _Side:
    """One form of one task on the device that it is measured on."""

    def __init__(self, task: Task, form: str, device: torch.device, dtype: torch.dtype):
        own = copy.deepcopy(task).eval() if form == "plain" else reparameterize(task, deep=form == "deep")
        layout = torch.channels_last if task.channels_last else torch.preserve_format
        self.task = own.to(device, memory_format=layout)
        self.device, self.dtype = device, dtype
        self.weights = used(self.task)

    def noise(self, batch: int, size: tuple[int, int]) -> Tensor:
        """Images uint8 (N, C, height, width), the same ones for all models of as many channels."""
        generator = torch.Generator().manual_seed(0)
        shape = (batch, len(self.task.mean), *size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(self.device)

    @torch.no_grad()
    def run(self, images: Tensor, after: Callable[[str], None] = lambda part: None) -> None:
        """One pass; ``after`` is called with the name of each part when it is done."""
        x: Any = images
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                for part, function in stages(self.task, images):
                    x = function(x)
                    after(part)
        except torch.OutOfMemoryError as error:
            raise InputError(f"{_shape(images)} do not fit into the memory: give smaller sizes or batches") from error
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"the model does not take {_shape(images)} ({reason:.200}): give sizes that it was trained on"
            ) from error

    def multiply_adds(self, size: tuple[int, int]) -> dict[str, int]:
        """Those of one image by part; before, the operators choose their way (which also computes)."""
        images = self.noise(1, size)
        self.run(images)
        found = dict.fromkeys(PARTS, 0)
        with FlopCounterMode(display=False) as counter:
            before = 0

            def after(part: str) -> None:
                nonlocal before
                found[part] += (counter.get_total_flops() - before) // 2
                before = counter.get_total_flops()

            self.run(images, after)
        return found

    def peak_memory(self, images: Tensor) -> float:
        """MiB of the weights and of what one pass needs at most beyond them."""
        held = sum(tensor.nbytes for tensor in (*self.task.parameters(), *self.task.buffers()))
        self.run(images)
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.run(images)
            torch.cuda.synchronize(self.device)
            return (held + torch.cuda.max_memory_allocated(self.device) - before) / 2**20
        with PeakMemory() as memory:
            self.run(images)
        return (held + memory.peak) / 2**20

    def seconds(self, images: Tensor) -> dict[str, float]:
        """Seconds of one pass, as a whole under "", and, of another one that waits after each part, of the parts."""
        found = dict.fromkeys(("", *PARTS), 0.0)
        began = self._now()
        self.run(images)
        found[""] = self._now() - began

        def after(part: str) -> None:
            nonlocal began
            found[part] += (now := self._now()) - began
            began = now

        began = self._now()
        self.run(images, after)
        return found

    def _now(self) -> float:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()
        return time.perf_counter()

    def profile(
        self,
        name: str,
        form: str,
        size: tuple[int, int],
        batch: int,
        macs: dict[str, int],
        taken: list[dict[str, float]],
        memory: float,
    ) -> Profile:
        """The numbers of what was measured."""
        parameters = {part: sum(p.numel() for p in weights) for part, weights in self.weights.items()}
        whole = [seconds[""] for seconds in taken]
        fast, median, slow = statistics.quantiles(whole, n=4, method="inclusive") if len(whole) > 1 else whole * 3
        return Profile(
            name=name,
            form=form,
            height=size[0],
            width=size[1],
            batch=batch,
            device=device_name(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            parameters=sum(parameters.values()),
            nonzero=sum(int(p.count_nonzero()) for weights in self.weights.values() for p in weights),
            macs=sum(macs.values()),
            latency=median,
            fast=fast,
            slow=slow,
            throughput=batch / median,
            memory=memory,
            parts={
                part: Part(parameters[part], macs[part], statistics.median(seconds[part] for seconds in taken))
                for part in PARTS
            },
        )


def _shape(images: Tensor) -> str:
    batch, _, height, width = images.shape
    return f"{batch} image{'s' * (batch > 1)} of {height} x {width} pixels"
