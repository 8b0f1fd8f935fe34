"""How long a run will take, from a few of its steps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lk_downstream import trust
from lk_downstream.errors import InputError


@dataclass(frozen=True)
class Times:
    """What was measured, and what it comes to.

    Attributes:
        step, batch: seconds of an optimizer step and of a batch of the validation.
        steps, validations, batches: how many the run has; batches of one validation.
        start: seconds before the first step, and those after it until the measurement ended.
        memory: peak GiB; None where it is not told.
    """

    step: float
    batch: float
    steps: float
    validations: int
    batches: int
    start: float
    memory: float | None

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.start + self.steps * self.step + self.validations * self.batches * self.batch

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {self.memory:.1f} GiB"
        validation = f"{self.validations} validations of {self.batches * self.batch:.3g} s"
        return f"{self.steps:.0f} steps of {self.step:.3g} s, {validation}{memory}"


def estimate(words: Sequence[str], steps: int = 4) -> Times:
    """Begin a run in a process of its own, which leaves nothing behind.

    Args:
        words: Of a command line of ``lk-downstream fit``.
        steps: That are measured.

    Raises:
        InputError: The run cannot begin, with what it says.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        callback = ["--trainer.callbacks+=lk_downstream.callbacks.StepTimes", f"--trainer.callbacks.file={file}"]
        callback += [f"--trainer.callbacks.steps={steps}", f"--trainer.default_root_dir={folder}"]
        began = time.perf_counter()
        command = [sys.executable, "-m", "lk_downstream", "fit", *words, *callback]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        start = time.perf_counter() - began
        if not file.is_file():
            raise InputError(told(done.stderr))
        return Times(start=start, **trust.read_json(file))


def told(output: str) -> str:
    """Why a command of ``lk-downstream`` has ended, from what it wrote last."""
    sentence = output.rpartition("error: ")[2] if output.startswith("error: ") or "\nerror: " in output else ""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it ended without a word"]
    return " ".join(sentence.split()) or lines[-1]
