"""Processor time of an answer of the command line beside that of importing the libraries alone, as whole processes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

from benchmarks.sides import Race, alternate, shares

ROUNDS = 5
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--answers", nargs="+", choices=ANSWERS, default=list(ANSWERS), metavar="NAME")


def races(options: argparse.Namespace) -> Iterator[Race]:
    codes = {"the libraries alone": BARE}
    codes |= {name: ANSWER.format(["lk-downstream", *ANSWERS[name]]) for name in options.answers}
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=False, cwd=folder)
            for name, code in codes.items()
        }
        seconds = alternate(sides, options.rounds, _children)
    yield Race("start of the command line", "processor time", "s", shares(seconds, 1))


def _children() -> float:
    """Processor time of processes that have ended, which Windows does not tell."""
    times = os.times()
    return times.children_user + times.children_system
