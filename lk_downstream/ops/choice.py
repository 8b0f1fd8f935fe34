"""The fastest of several ways to compute one thing: measured once for each kind of shape, then remembered."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Each contender runs at least and at most this often, and in between until so many seconds have passed. Its smallest
# time counts, so that a disturbed run does no harm.
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_SECONDS = 3, 12, 0.1
CONTENDER = 3.0  # times the best first run (which holds set-up costs) up to which a candidate is measured again
PATIENCE = 1.0  # seconds of measuring for one shape, after which the best so far is taken
NEGLIGIBLE = 0.02  # seconds that a first run may take, however slow it is beside the others


@dataclass
class Candidate:
    """One way to compute the result.

    Attributes:
        name: under which it is remembered and reported.
        run: computes the result.
        sample: computes a part of it, for ways that can be slower by orders of magnitude: these are run in full
            only if ``share`` times the time of the sample looks competitive.
        share: the whole over the part.
    """

    name: str
    run: Callable[[], Tensor]
    sample: Callable[[], Tensor] | None = None
    share: float = 1.0


@dataclass
class Choice:
    """What was chosen for one kind of shape, and the seconds that each candidate took (math.inf: not run in full)."""

    name: str
    seconds: dict[str, float] = field(default_factory=dict)


CHOICES: dict[Hashable, Choice] = {}
SETTLED: dict[Hashable, Callable] = {}  # what to call for an exact shape, found without asking again
FAILURES: dict[str, str] = {}  # candidates that raised an error, with its first line


def bucket(value: int) -> int:
    """Sizes within about 20 % share a bucket, so that pictures of many sizes do not each start a measurement."""
    return round(4 * math.log2(max(value, 1)))


def seconds(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Wall time of one run, or on a GPU the mean of five between two events, and its result."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(5):
            result = run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 5e3, result
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def fastest(key: Hashable, candidates: list[Candidate], device: torch.device) -> Tensor:
    """Measure the candidates, remember the fastest under ``key`` and return its result.

    A candidate that raises is left out (see ``FAILURES``), unless all do: then the first error is raised.
    """
    best: dict[str, float] = {}
    results: dict[str, Tensor] = {}
    errors: list[Exception] = []
    began = time.perf_counter()
    for candidate in candidates:
        try:
            if candidate.sample is not None and best:
                candidate.sample()
                estimate = candidate.share * seconds(candidate.sample, device)[0]
                if estimate > max(2 * min(best.values()), NEGLIGIBLE):
                    continue
            if device.type == "cuda":
                candidate.run()  # compiles; not to be timed
            best[candidate.name], results[candidate.name] = seconds(candidate.run, device)
        except (RuntimeError, NotImplementedError, ValueError) as error:  # out of memory is a RuntimeError
            errors.append(error)
            FAILURES[candidate.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if not best:
        raise errors[0]
    limit = CONTENDER * min(best.values()) + 5e-3
    contenders = [candidate for candidate in candidates if best.get(candidate.name, math.inf) <= limit]
    rounds_began = time.perf_counter()
    for done in range(MOST_ROUNDS if len(contenders) > 1 else 0):
        now = time.perf_counter()
        if now - began > PATIENCE or (done >= LEAST_ROUNDS and now - rounds_began > ROUNDS_SECONDS):
            break
        for candidate in contenders:
            best[candidate.name] = min(best[candidate.name], seconds(candidate.run, device)[0])
    name = min(best, key=best.__getitem__)
    CHOICES[key] = Choice(name, {c.name: best.get(c.name, math.inf) for c in candidates})
    return results[name]


def clear() -> None:
    """Forget all choices, for instance after a change of the number of threads on a machine now less busy."""
    CHOICES.clear()
    SETTLED.clear()
    FAILURES.clear()
