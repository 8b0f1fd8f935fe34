"""Processor time of an answer of the command line beside that of importing the libraries alone, in alternating rounds.

``python tools/benchmark_start.py``: medians of user and system time of whole processes, in seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BARE = "import torch, torchvision, timm, lightning.pytorch"
ANSWERS = {
    "--help": ["--help"],
    "fit --help": ["fit", "--help"],
    "a config that is missing": ["fit", "--config", "absent"],
    "a wrong option": ["fit", "--config", "demo_segmentation", "--trainer.max_stps", "3"],
    "a wrong class": ["fit", "--config", "demo_segmentation", "--model.optimizer", "Adamw"],
    "--print_config": ["fit", "--config", "demo_segmentation", "--print_config"],
    "--model.help Segmentation": ["fit", "--model.help", "Segmentation"],
}
ANSWER = "import sys; sys.argv = {}; from lk_downstream.commands import main; sys.exit(main())"


def seconds(code: str, folder: str) -> float:
    """Processor time of a process that runs some code (Windows does not tell that of a process that has ended)."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=folder)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sides = {BARE: BARE, **{name: ANSWER.format(["lk-downstream", *words]) for name, words in ANSWERS.items()}}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            for name, code in sides.items():
                value = seconds(code, folder)
                if number:  # the first round fills the disk's cache
                    taken[name].append(value)
    bare = statistics.median(taken[BARE])
    for name, values in taken.items():
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{name:52s} {statistics.median(values):6.2f} s {spread:18s} {statistics.median(values) - bare:+6.2f}")


if __name__ == "__main__":
    main()
