"""What is analysed, as a command line names it: a run's folder, a checkpoint, or a model of timm's registry."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lk_downstream.errors import InputError
from lk_downstream.tasks import Task, load_task


def checkpoint_of(source: str | os.PathLike) -> Path:
    """The checkpoint that a path stands for: of a run's folder that of the best step, else of the last.

    Raises:
        InputError: the folder holds none.
    """
    path = Path(source)
    if not path.is_dir():
        return path
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    best = sorted(folder.glob("best_step=*.ckpt"), key=lambda file: file.stat().st_mtime)
    for found in (*best[::-1], folder / "last.ckpt"):
        if found.is_file():
            return found
    raise InputError(f"{path} holds no checkpoints/last.ckpt: give the folder of a run, or a checkpoint")


def find_task(source: str | os.PathLike, trusted: Iterable[str] = ()) -> Task:
    """The task of a run's folder or a checkpoint, see :func:`lk_downstream.tasks.load_task`."""
    return load_task(checkpoint_of(source), trusted)
