"""Several sides that do the same work, measured in turn, so that a busy machine slows them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lk_downstream.analysis.memory import PeakMemory
from lk_downstream.machine import record
from lk_downstream.reports.files import write_json

OURS = "lk_downstream"
SHARE = "% of the time"  # the unit of what is no race: parts of one thing


@dataclass(frozen=True)
class Race:
    """What was measured of some work.

    Attributes:
        what: Name of the work, by which the README's table finds it.
        conditions: Sizes, threads and the like.
        unit: Of the values; with ``/s`` at its end more is better, else less.
        sides: Values of each side, one a round. The first side is the one that the others are compared with.
        apart: Of sides whose outputs were compared with the first's: the largest difference of each output.
    """

    what: str
    conditions: str
    unit: str
    sides: Mapping[str, Sequence[float]]
    apart: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def median(self, side: str) -> float:
        """Of a side's values."""
        return statistics.median(self.sides[side])

    def times(self, side: str) -> float:
        """How many times as fast as the first side, the median over the rounds."""
        first = next(iter(self.sides.values()))
        rate = self.unit.endswith("/s")
        return statistics.median(own / other if rate else other / own for own, other in zip(self.sides[side], first))


def alternate(
    sides: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each side in each of the rounds, after one more that warms up.

    Args:
        sides: What they do.
        rounds: How many count.
        clock: By default the processor time of this process and its threads.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            start = clock()
            call()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def peak(run: Callable[[], object]) -> int:
    """Bytes that tensors hold at most while something runs, beyond those before."""
    with PeakMemory() as memory:
        run()
    return memory.peak


def rates(seconds: Mapping[str, Sequence[float]], amount: int) -> dict[str, list[float]]:
    """So much in those seconds, as a second's work."""
    return {name: [amount / value for value in values] for name, values in seconds.items()}


def shares(seconds: Mapping[str, Sequence[float]], amount: float) -> dict[str, list[float]]:
    """The time of one of so many; with an amount in thousands, in milliseconds."""
    return {name: [value / amount for value in values] for name, values in seconds.items()}


def show(race: Race) -> str:
    """A line for each side: median, range, and how it compares with the first."""
    lines = [f"{race.what} ({race.conditions})"]
    for name, values in race.sides.items():
        spread = f"({number(min(values))} to {number(max(values))})"
        median = number(race.median(name))
        times = f"{race.times(name):6.2f} times as {'little' if race.unit == 'GiB' else 'fast'}"
        times = "" if race.unit == SHARE else times
        lines.append(
            f"  {name:34s} {median:>8s} {race.unit:9s} {spread:20s} {times}  {differences(race, name)}".rstrip()
        )
    return "\n".join(lines)


def differences(race: Race, side: str) -> str:
    """How far the outputs of a side are from the first's, in words."""
    return ", ".join(f"{name} {value:.1e}" for name, value in race.apart.get(side, {}).items())


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def write(path: Path, races: Sequence[Race], command: Sequence[str]) -> None:
    """Write what was measured as JSON, with the machine and its abilities."""
    write_json(path, {"part": path.stem, **record(command), "races": [asdict(race) for race in races]})
