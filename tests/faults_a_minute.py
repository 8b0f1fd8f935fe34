"""A training that meets a fault at each interval, and ends as one that met none: ``python tests/faults_a_minute.py``.

Options: ``--task``, ``--steps`` of the training, and ``--interval``, seconds that it is let alone between two faults.
One image is damaged from the beginning, and left out by data.skip_damaged.
"""

import argparse
import errno
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
from commands_in_children import Child
from kills import assert_same, at, complete
from test_resume import RUNS

from lk_downstream.callbacks import checkpoints

FULL = "the disk is full"  # name of a file: while it is there, no checkpoint can be written


class Training:
    """A training in the folder of its data, which goes on from its newest checkpoint each time that it is started."""

    def __init__(self, task, folder, steps):
        self.folder = folder
        self.words = [*RUNS[task], "--trainer.max_steps", str(steps), "--trainer.val_check_interval", "100"]
        self.words += ["--data.workers", "1", "--data.skip_damaged", "true", "--trainer.deterministic", "true"]
        self.words += ["--checkpoint.every_n_steps", "10", "--trainer.default_root_dir", "runs"]
        self.checkpoint = None

    def start(self, *more):
        """Start it, or let it go on; it is in its training when this returns."""
        self.checkpoint = complete(self.folder) or self.checkpoint
        go_on = ["--ckpt_path", str(self.checkpoint)] if self.checkpoint else []
        self.child = Child("fit", [*self.words, *go_on, *more], self.folder, before=fill_up)

    def images(self):
        return sorted(path for path in self.folder.glob("data/**/*") if path.suffix in (".jpg", ".png", ".jpeg"))

    def begun(self):
        return "parameters;" in self.child.printed()


def fill_up():
    """Let checkpoints meet a full disk while there is a file of that name."""
    write = torch.save

    def save(content, file):
        if Path(FULL).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, file)

    checkpoints.torch = type("torch", (), {**vars(torch), "save": staticmethod(save)})


def kill_worker(training, chance):
    pid = training.child.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    for worker in workers:
        os.kill(int(worker), signal.SIGKILL)
    return training.child.wait(), lambda: None


def lose_image(training, chance):
    path = chance.choice([path for path in training.images() if "train" in str(path)])
    path.rename(path.with_name("lost"))
    return training.child.wait(), lambda: path.with_name("lost").rename(path)


def fill_disk(training, chance):
    (training.folder / FULL).touch()
    return training.child.wait(), (training.folder / FULL).unlink


def stop(training, chance):
    training.child.send(signal.SIGTERM)
    return training.child.wait(), lambda: None


def kill(training, chance):
    training.child.send(signal.SIGKILL, group=True)
    return training.child.wait(), lambda: None


# Fault -> the exit status that it has, and words that are said of it.
FAULTS = {
    kill_worker: (1, "a loader process"),
    lose_image: (1, "No such file"),
    fill_disk: (1, "No space left"),
    stop: (128 + signal.SIGTERM, "SIGTERM"),
    kill: (-signal.SIGKILL, ""),
}


def meet(training, interval, chance):
    """Start a training until it is through, with a fault after each interval.

    Yields:
        Name of the fault, exit status, and the step that goes on.
    """
    faults = []
    while True:
        training.start()
        training.child.until(lambda: training.begun() or training.child.done())
        end = time.monotonic() + interval * chance.uniform(0.5, 1.5)
        while not training.child.done() and time.monotonic() < end:
            time.sleep(0.02)
        if training.child.done():
            assert training.child.status == 0, training.child.printed()
            return
        faults = faults or chance.sample(list(FAULTS), len(FAULTS))
        fault = faults.pop()
        status, mend = fault(training, chance)
        mend()
        if status == 0:  # it was through before it met the fault
            return
        expected, words = FAULTS[fault]
        assert status == expected, (fault, status, training.child.printed())
        assert words in training.child.printed(), training.child.printed()
        assert "Traceback" not in training.child.printed()
        yield fault.__name__, status, at(complete(training.folder) or training.checkpoint, "global_step")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=list(RUNS), default="segmentation")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        whole, parts = (Training(options.task, Path(place) / name, options.steps) for name in ("whole", "parts"))
        for training in (whole, parts):
            training.start("--trainer.max_steps", "1", "--trainer.default_root_dir", "first")  # writes the data
            assert training.child.wait(300) == 0, training.child.printed()
            damaged = next(path for path in training.images() if "train" in str(path))
            damaged.write_bytes(damaged.read_bytes()[:100])
        begin = time.monotonic()
        whole.start()
        assert whole.child.wait(7200) == 0, whole.child.printed()
        print(f"{options.task}: {options.steps} steps without a fault in {time.monotonic() - begin:.0f} s", flush=True)
        begin = time.monotonic()
        print("| fault | after seconds | exit status | goes on from step |\n|---|---|---|---|")
        for number, (name, status, step) in enumerate(meet(parts, options.interval, random.Random(0)), 1):
            print(f"| {number} {name} | {time.monotonic() - begin:.0f} | {status} | {step} |", flush=True)
        assert_same(complete(parts.folder), complete(whole.folder))
        lists = [sorted(training.folder.glob("runs/*/run_*/left_out.txt"))[-1] for training in (whole, parts)]
        assert lists[0].read_text(encoding="utf-8") == lists[1].read_text(encoding="utf-8") != ""
        print(f"the end, after {time.monotonic() - begin:.0f} s, equals the run without a fault, bit for bit")


if __name__ == "__main__":
    main()
