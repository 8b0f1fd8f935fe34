"""Loggers of a run: whatever they are, its files lie in its folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

FOLDERS = ("mlruns", "wandb")  # that loggers make before the first step


class TableWriter(ExperimentWriter):
    """Writes ``metrics.csv`` so that a run that is killed leaves all metrics, in whole rows.

    Lightning's writes the file anew, in its place, whenever a metric comes with a new name.
    """

    def save(self) -> None:
        """Append what was logged since the last time."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        names = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if names == self.metrics_keys:
            with path.open("ab", buffering=0) as file:
                file.write(_lines(names, self.metrics))
        else:
            former = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            part = path.with_suffix(".csv.part")
            part.write_bytes(_lines(names, [dict(zip(names, names)), *csv.DictReader(former), *self.metrics]))
            part.replace(path)
        self.metrics_keys, self.metrics = names, []


def _lines(names: list[str], rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, names).writerows(rows)
    return text.getvalue().encode("utf-8")


class TableLogger(CSVLogger):
    """A CSV logger whose file holds at any time what was logged, see :class:`TableWriter`."""

    def __init__(self, save_dir: Path, name: str, version: str):
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> TableWriter:
        """What writes the table, on the first process."""
        if self._experiment is None:
            self._experiment = TableWriter(self.log_dir)
        return self._experiment


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
    return [TableLogger(*place_of_run), *(given if isinstance(given, list) else [given])]
