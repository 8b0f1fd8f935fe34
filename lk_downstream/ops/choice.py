"""The fastest of several ways to compute one thing: measured for each kind of shape, and now and then again."""

from __future__ import annotations

import logging
import math
import os
import threading
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
SAMPLES = 3  # runs of a sample, of which the fastest counts
NEGLIGIBLE = 0.02  # seconds that a first run may take, however slow it is beside the others

# A choice made while other programs kept the cores busy may be wrong, so it is looked at again: after so many seconds,
# or so many times the cost of measuring if that is longer, and then in intervals that double; sooner, by the factor
# SOONER, where several calls in a row are slower than measured by the factor SLOW.
AGAIN, AGAIN_COSTS, SOONER = 60.0, 200.0, 0.1
SLOW, SLOW_SECONDS, SLOW_CALLS = 5.0, 1e-3, 3  # sizes of one bucket differ by a factor of 2 in work

_log = logging.getLogger(__name__)
_told: set[str] = set()


@dataclass
class Candidate:
    """One way to compute the result.

    Attributes:
        name: under which it is remembered and reported.
        run: computes the result.
        sample: computes a part of it, the same for all candidates.
        share: the whole over the part.
        doubtful: it can be slower by orders of magnitude, and is run in full only if its sample looks competitive.
    """

    name: str
    run: Callable[[], Tensor]
    sample: Callable[[], Tensor] | None = None
    share: float = 1.0
    doubtful: bool = False


@dataclass
class Choice:
    """What was chosen for one kind of shape.

    Attributes:
        name: of the candidate.
        seconds: that each candidate took; math.inf: not run in full.
        measured: how often this was measured.
        due: when it is to be measured again, on the clock of ``time.perf_counter``.
        soonest: likewise, if it turns out slow.
        slow: calls in a row that were slow.
    """

    name: str
    seconds: dict[str, float] = field(default_factory=dict)
    measured: int = 1
    due: float = math.inf
    soonest: float = math.inf
    slow: int = 0

    def used(self, began: float) -> None:
        """Note a call that began at ``began`` and ends now (on devices that compute while the caller waits)."""
        taken = time.perf_counter() - began
        if taken <= SLOW * self.seconds[self.name] + SLOW_SECONDS:
            self.slow = 0
            return
        self.slow += 1
        if self.slow >= SLOW_CALLS:
            self.due = min(self.due, self.soonest)
            _tell_of_load(taken / self.seconds[self.name])


CHOICES: dict[Hashable, Choice] = {}
SETTLED: dict[Hashable, Callable] = {}  # what to call for an exact shape, found without asking again
FAILURES: dict[tuple[Hashable, str], str] = {}  # (kind of shape, candidate) that raised an error, with its first line

# One thread measures at a time: two at once would time each other.
MEASURING = threading.RLock()


def _after_fork() -> None:
    global MEASURING
    MEASURING = threading.RLock()  # the parent's may be held by a thread that the child does not have


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def bucket(value: int) -> int:
    """Sizes within about 20 % share a bucket, so that images of many sizes do not each start a measurement."""
    return round(4 * math.log2(max(value, 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, which says nothing of what raised it."""
    words = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in words for sign in ("out of memory", "can't allocate memory", "alloc_failed")
    )


def seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Wall time of one run, or on a GPU the mean of five between two events. Results are dropped at once."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(5):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 5e3
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def fastest(key: Hashable, candidates: list[Candidate], device: torch.device) -> Tensor:
    """Measure the candidates, remember the fastest under ``key`` and return its result.

    No result is alive while the next candidate runs. A candidate that raises is left out for this ``key`` from then on
    (see ``FAILURES``), or only this time if memory was short. If all raise, so does this, with the first error.
    """
    with MEASURING:
        choice = CHOICES.get(key)
        if choice is None or choice.due <= time.perf_counter():  # else another thread has measured in the meantime
            choice = CHOICES[key] = _measured(key, candidates, device, choice)
    return next(candidate for candidate in candidates if candidate.name == choice.name).run()


def _measured(key: Hashable, candidates: list[Candidate], device: torch.device, before: Choice | None) -> Choice:
    best: dict[str, float] = {}
    first_error: Exception | None = None
    memory_was_short = False
    began = time.perf_counter()
    for candidate in [item for item in candidates if (key, item.name) not in FAILURES] or candidates:
        try:
            if candidate.doubtful and best and _is_hopeless(candidate, candidates, best, device):
                continue
            if device.type == "cuda":
                candidate.run()  # compiles; not to be timed
            best[candidate.name] = seconds(candidate.run, device)
        except (RuntimeError, NotImplementedError, ValueError, MemoryError) as error:
            # Its frames hold tensors.
            first_error = first_error or error.with_traceback(None)
            if is_out_of_memory(error):
                memory_was_short = True
            else:
                FAILURES[key, candidate.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if not best:
        raise first_error
    limit = CONTENDER * min(best.values()) + 5e-3
    contenders = [candidate for candidate in candidates if best.get(candidate.name, math.inf) <= limit]
    rounds_began = time.perf_counter()
    for done in range(MOST_ROUNDS if len(contenders) > 1 else 0):
        now = time.perf_counter()
        if now - began > PATIENCE or (done >= LEAST_ROUNDS and now - rounds_began > ROUNDS_SECONDS):
            break
        for candidate in contenders:
            best[candidate.name] = min(best[candidate.name], seconds(candidate.run, device))
    name = min(best, key=best.__getitem__)
    choice = Choice(
        name, {c.name: best.get(c.name, math.inf) for c in candidates}, 1 + (before.measured if before else 0)
    )
    # A GPU computes for one program at a time, and measuring it makes the caller wait: only where memory was short.
    if device.type == "cpu" or memory_was_short:
        now = time.perf_counter()
        wait = 2 ** (choice.measured - 1) * max(AGAIN, AGAIN_COSTS * (now - began))
        choice.due, choice.soonest = now + wait, now + SOONER * wait
    return choice


def _is_hopeless(
    candidate: Candidate, candidates: list[Candidate], best: dict[str, float], device: torch.device
) -> bool:
    """Whether a candidate's sample is slow, by what the others take in full and by what the fastest takes for it.

    A neighbour's use of the cores lengthens a sample by as much as a whole run, so that neither alone would tell.
    """

    def taken(candidate: Candidate) -> float:
        return min(seconds(candidate.sample, device) for _ in range(SAMPLES))

    candidate.sample()
    own = taken(candidate)
    if candidate.share * own <= max(2 * min(best.values()), NEGLIGIBLE):
        return False
    leader = next(other for other in candidates if other.name == min(best, key=best.__getitem__))
    return leader.sample is None or own > CONTENDER * taken(leader)


def _tell_of_load(times: float) -> None:
    if "load" in _told or torch.get_num_threads() == 1:
        return
    _told.add("load")
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive"
    _log.info(
        f"large kernels take {times:.0f} times as long as when they were measured: other programs use the cores"
        + ("; with OMP_WAIT_POLICY=PASSIVE in the environment waiting threads leave them alone" if waiting else "")
    )


def clear() -> None:
    """Forget all choices, for instance after a change of the number of threads on a machine now less busy."""
    with MEASURING:
        CHOICES.clear()
        SETTLED.clear()
        FAILURES.clear()
