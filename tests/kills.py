"""Runs that are killed at random moments, and resumed from what is left: ``python tests/kills.py 50``."""

import itertools
import json
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import yaml
from commands_in_children import Child
from PIL import Image
from test_resume import RUNS

STEPS = ("--trainer.max_steps", "40", "--trainer.val_check_interval", "5", "--data.workers", "1")
COMMON = (*STEPS, "--trainer.deterministic", "true", "--checkpoint.every_n_steps", "1")


def complete(folder):
    """Read every file that the runs below a folder have left; the newest last checkpoint, or None."""
    for path in sorted(folder.rglob("*")):
        if ".part" in path.suffixes:  # what a killed process was writing
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
    checkpoints = sorted(folder.glob("runs/*/run_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return checkpoints[-1] if checkpoints else None


def fit(kind, folder, checkpoint=None):
    more = ["--ckpt_path", str(checkpoint)] if checkpoint else []
    return Child("fit", [*RUNS[kind], *COMMON, "--trainer.default_root_dir", "runs", *more], folder)


def _runs(folder):
    return len(list(folder.glob("runs/*/run_*")))


def _more_runs(folder, than):
    return _runs(folder) > than


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def kill_at_random(kind, folder, times, seed=0):
    """Kill a run ``times`` times, each time going on from the newest checkpoint, and let it come to its end.

    Yields:
        Seconds after the start of each kill, and the step of the checkpoint that goes on.
    """
    whole = fit(kind, folder / "whole")
    assert whole.wait(600) == 0, whole.printed()
    expected = weights(complete(folder / "whole"))
    chance, parts, checkpoint = random.Random(seed), folder / "parts", None
    for _ in range(times):
        child = fit(kind, parts, checkpoint)
        child.until(partial(_more_runs, parts, _runs(parts)))
        after = chance.uniform(0, 6)
        time.sleep(after)
        child.send(signal.SIGKILL, group=True)
        status = child.wait()
        checkpoint = complete(parts) or checkpoint
        step = torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint else 0
        yield round(after, 2), step, status
        if step >= 35 or status == 0:  # begin anew rather than end with fewer kills
            parts, checkpoint = folder / f"parts{step}_{chance.random()}", None
    child = fit(kind, parts, checkpoint)
    assert child.wait(600) == 0, child.printed()
    resumed = weights(complete(parts))
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    each = -(-int(sys.argv[1]) // len(RUNS))
    with tempfile.TemporaryDirectory() as place:
        numbers = itertools.count(1)
        for kind in RUNS:
            for after, step, _ in kill_at_random(kind, Path(place) / kind, each):
                print(f"{next(numbers):3}  {kind:<15} killed {after:.2f} s after its start; goes on from step {step}")
            print(f"{kind}: the end equals the unbroken run, bit for bit", flush=True)
