"""Loggers of a run: whatever they are, its files lie in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

FOLDERS = ("mlruns", "wandb")  # that loggers make before the first step


def place(settings: Any, folder: Path) -> None:
    """Let the relative folders of loggers, such as W&B's ``.``, count from the folder of the run.

    Args:
        settings: Of ``trainer.logger``, before anything is made of them; changed in place.
        folder: Of the run.
    """
    for logger in settings if isinstance(settings, list) else [settings]:
        options = logger.get("init_args") if isinstance(logger, Namespace) else None
        if options is not None and "save_dir" in options and "://" not in str(options.save_dir):
            options.save_dir = str(folder / Path(options.save_dir or "").expanduser())


def of_run(given: Any, folder: Path, training: bool) -> list[Logger] | bool:
    """The loggers of a run: a CSV file in its folder first, of which Lightning takes the folder for all else.

    Args:
        given: ``trainer.logger``: the user's loggers, False for none, or another value for TensorBoard's.
        folder: Of the run.
        training: Whether it is a training; an evaluation has no curves for TensorBoard.
    """
    if given is False:
        return False
    place_of_run = (folder.parent.parent, folder.parent.name, folder.name)
    if given in (None, True):
        given = [TensorBoardLogger(*place_of_run)] if training else []
    return [CSVLogger(*place_of_run), *(given if isinstance(given, list) else [given])]
