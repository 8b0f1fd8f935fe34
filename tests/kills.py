"""Runs that are killed at random moments, and resumed from what is left: ``python tests/kills.py 50 [TASK ...]``."""

import csv
import json
import os
import random
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from commands_in_children import Child
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from PIL import Image
from test_resume import RUNS

from lk_downstream.callbacks import CheckpointFiles
from lk_downstream.callbacks.plots import Plots
from lk_downstream.loggers import TableWriter
from lk_downstream.reports.files import write_json
from lk_downstream.tasks import Classification, Detection, Segmentation

STEPS = ("--trainer.max_steps", "40", "--trainer.val_check_interval", "5", "--data.workers", "1")
COMMON = (*STEPS, "--trainer.deterministic", "true", "--checkpoint.every_n_steps", "1")
TASKS = (Classification, Detection, Segmentation)
VALIDATION = ("validation_step", "on_validation_epoch_end")
# What a run is at -> the functions that do it, and of how many calls of them at most a kill waits for one.
PLACES = {
    "step": ((_AutomaticOptimization.run,), 8),
    "validation": ([getattr(task, name) for task in TASKS for name in VALIDATION], 6),
    "checkpoint": ((CheckpointFiles.save_checkpoint,), 8),
    "drawing": ((Plots.on_validation_end,), 2),
    "tables": ((write_json, TableWriter.save), 3),
}
OF_CODE = {function.__code__: place for place, (functions, _) in PLACES.items() for function in functions}


class Moment(NamedTuple):
    """A moment of a run that does not depend on how fast it runs: the ``inner``-th call of any Python function within
    the ``outer``-th call of those of a place."""

    place: str
    outer: int
    inner: int


class Watch:
    """Kills its process and the loaders at a moment.

    Args:
        moment: None: never.
        path: Of a file that gets, for each place, how many calls were within each of its calls.
    """

    def __init__(self, moment=None, path=None):
        self.moment, self.path = moment, path
        self.inside, self.inner, self.counts = None, 0, defaultdict(list)

    def __call__(self, frame, event, value):
        """As `sys.setprofile` calls it."""
        if event == "call" and self.inside is None:
            if frame.f_code in OF_CODE:
                self.inside, self.inner = frame, 0
        elif event == "call":
            self.inner += 1
            self._kill(frame, self.inner)
        elif event == "return" and frame is self.inside:
            self._kill(frame, float("inf"))  # this one was shorter
            self.counts[OF_CODE[frame.f_code]].append(self.inner)
            self.inside = None
            if self.path:
                self.path.write_text(json.dumps(self.counts), encoding="utf-8")

    def _kill(self, frame, inner):
        place = OF_CODE[self.inside.f_code]
        if self.moment is None or self.moment[:2] != (place, len(self.counts[place]) + 1) or inner < self.moment.inner:
            return
        while not hasattr(frame.f_locals.get("trainer"), "global_step"):
            frame = frame.f_back
        os.write(1, f"\nkilled at step {frame.f_locals['trainer'].global_step}\n".encode())
        os.killpg(0, signal.SIGKILL)


def complete(folder):
    """Read every file that the runs below a folder have left; the newest last checkpoint, or None."""
    for path in sorted((folder / "runs").rglob("*")):
        if ".part" in path.suffixes:  # what a killed process was writing
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            assert len(set(map(len, rows))) <= 1, f"{path} has rows of several lengths"
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
    checkpoints = sorted(folder.glob("runs/*/run_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return checkpoints[-1] if checkpoints else None


def fit(kind, folder, checkpoint=None, watch=None):
    more = ["--ckpt_path", str(checkpoint)] if checkpoint else []
    words = [*RUNS[kind], *COMMON, "--trainer.default_root_dir", "runs", *more]
    return Child("fit", words, folder, before=partial(sys.setprofile, watch) if watch else None)


def at(path, name):
    return torch.load(path, weights_only=True)[name] if path else 0


def best(checkpoint):
    return json.loads((checkpoint.parents[1] / "metrics.json").read_text(encoding="utf-8"))["best"]


class Kill(NamedTuple):
    """What a kill was, and which step the checkpoint has that goes on."""

    moment: Moment
    step: int
    checkpoint: int


def kill_at_random(kind, folder, times, seed=0):
    """Kill a run ``times`` times, each time going on from the newest checkpoint, and let it come to its end.

    Each place of `PLACES` comes in turn, the moment within it is drawn.

    Yields:
        A `Kill` for each.
    """
    counts = folder / "counts.json"
    whole = fit(kind, folder / "whole", watch=Watch(path=counts))
    assert whole.wait(900) == 0, whole.printed()
    calls = {name: statistics.median(found) for name, found in json.loads(counts.read_text(encoding="utf-8")).items()}
    expected = complete(folder / "whole")
    chance, chain, checkpoint, kills = random.Random(f"{kind} {seed}"), 0, None, 0
    while kills < times:
        place = list(PLACES)[kills % len(PLACES)]
        moment = Moment(place, chance.randint(1, PLACES[place][1]), chance.randint(1, round(calls[place])))
        parts, began = folder / f"parts_{chain}", at(checkpoint, "global_step")  # not known before it is restored
        child = fit(kind, parts, checkpoint, Watch(moment))
        status = child.wait(600)
        if "ends the run there" in child.printed():  # it was killed when only drawing was left
            status = 0
        assert status in (0, -signal.SIGKILL), child.printed()
        checkpoint = complete(parts) or checkpoint
        if status:
            step, reached = max(int(child.printed().split()[-1]), began), at(checkpoint, "global_step")
            assert step - 1 <= reached <= step, (moment, step, reached)
            kills += 1
            yield Kill(moment, step, reached)
        else:  # the moment was not to be; begin anew
            assert_same(checkpoint, expected)
            chain, checkpoint = chain + 1, None
    if checkpoint:
        child = fit(kind, folder / f"parts_{chain}", checkpoint)
        assert child.wait(600) == 0 or "ends the run there" in child.printed(), child.printed()
        assert_same(complete(folder / f"parts_{chain}"), expected)


def assert_same(checkpoint, expected):
    """Whether a run has ended with the weights and the best metrics of the unbroken one."""
    ours, theirs = at(checkpoint, "state_dict"), at(expected, "state_dict")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert best(checkpoint) == best(expected)


def table(times, kinds, place):
    """Rows of a table: number, task, moment and step of each kill, the step that goes on; an end is bit-equal, or an
    error."""
    each, number = -(-times // len(kinds)), 0
    yield "| kill | task | moment | step at the kill | goes on from step |"
    yield "|---|---|---|---|---|"
    for kind in kinds:
        for kill in kill_at_random(kind, place / kind, each):
            number += 1
            moment = f"{kill.moment.place} {kill.moment.outer}, call {kill.moment.inner}"
            yield f"| {number} | {kind} | {moment} | {kill.step} | {kill.checkpoint} |"
        yield f"| | {kind} | each end equals the unbroken run, bit for bit | 40 | |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for row in table(int(sys.argv[1]), sys.argv[2:] or list(RUNS), Path(place)):
            print(row, flush=True)
