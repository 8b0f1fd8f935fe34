"""What a finished run says of itself, from the files in its folder alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream import trust
from lk_downstream.analysis import significance
from lk_downstream.analysis.models import checkpoint_of
from lk_downstream.analysis.significance import Scores
from lk_downstream.errors import InputError
from lk_downstream.reports.curves import read_series


@dataclass
class Run:
    """A run that has been validated.

    Attributes:
        folder: Where its files lie.
        metric: Name of the one that it is chosen by.
        best, last: That metric at the best and the last validation, fractions of 1.
        best_step, last_step: Their optimizer steps.
        seconds: Of the training, those of the runs that it goes on from among them.
        device: What it ran on.
        settings: Its config by dotted names.
        curve: The metric of each validation by optimizer step.
        scores: Of each image at the last validation; None where the run wrote none.
        checkpoint: The best one; None where it is gone.
    """

    folder: Path
    metric: str
    best: float
    last: float
    best_step: int
    last_step: int
    seconds: float
    device: str
    settings: dict[str, Any]
    curve: dict[int, float] = field(default_factory=dict)
    scores: Scores | None = None
    checkpoint: Path | None = None


def read_run(folder: Path, earlier: Sequence[Path] = ()) -> Run:
    """Read a run.

    Args:
        folder: Such as ``runs/demo_segmentation/run_0``.
        earlier: Folders of the runs that it goes on from, the first one first.

    Raises:
        InputError: It holds no metrics of a validation, or a file is damaged.
    """
    report, config = folder / "metrics.json", folder / "config.yaml"
    if not report.is_file() or not config.is_file():
        raise InputError(f"{folder} is no folder of a run that was validated: it has no {report.name} and config.yaml")
    content = trust.read_json(report)
    try:
        metric, best = next(iter(content["best"]["summary"].items()))
        last = content["last"]["summary"][metric]
        steps = content["best"]["step"], content["last"]["step"]
        folders = (*earlier, folder)
        reports = [path / report.name for path in folders if (path / report.name).is_file()]
        curve: dict[int, float] = {}
        for path in folders:
            curve |= _curve(path / "metrics.csv", f"val/{metric}")
        return Run(
            folder=folder,
            metric=metric,
            best=_number(best),
            last=_number(last),
            best_step=int(steps[0]),
            last_step=int(steps[1]),
            seconds=sum(float(trust.read_json(path)["seconds"]) for path in reports),
            device=str(content["device"]),
            settings=flat(trust.read_yaml(config)),
            curve=curve,
            scores=_scores(folder),
            checkpoint=_best_checkpoint(folders, int(steps[0])),
        )
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise InputError(f"{report} is not what a run writes ({type(error).__name__}: {error})") from error


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, without ``init_args``: ``model.backbone.name`` as on the command line."""
    if not isinstance(settings, Mapping) or not settings:
        return {prefix: settings}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = prefix if name == "init_args" else f"{prefix}.{name}" if prefix else str(name)
        found |= flat(value, inner)
    return found


def differences(runs: Iterable[Run]) -> list[str]:
    """Names of the settings that are not the same in all runs, but for where their files lie."""
    every = [run.settings for run in runs]
    names = dict.fromkeys(name for settings in every for name in settings)
    own = ("trainer.default_root_dir", "ckpt_path", "config")
    return [
        name
        for name in names
        if name not in own and any(settings.get(name, ...) != every[0].get(name, ...) for settings in every)
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _curve(path: Path, name: str) -> dict[int, float]:
    if not path.is_file():
        return {}
    steps, values = read_series(path).get(name, ((), ()))
    return dict(zip(map(int, steps), map(float, values)))


def _best_checkpoint(folders: Sequence[Path], step: int) -> Path | None:
    """That of the best step, which may lie with a run that the last one went on from; else what the last one has."""
    for folder in reversed(folders):
        path = folder / "checkpoints" / f"best_step={step}.ckpt"
        if path.is_file():
            return path
    with suppress(InputError):
        return checkpoint_of(folders[-1])
    return None


def _scores(folder: Path) -> Scores | None:
    """From ``per_image.csv``, and of a segmentation from the counts of classes beside it."""
    table, counts = folder / "per_image.csv", folder / "per_image.npy"
    if not table.is_file():
        return None
    rows = list(csv.DictReader(trust.read_text(table).splitlines()))
    names = [row["name"] for row in rows]
    if not rows:
        return None
    if counts.is_file():
        array = trust.read_array(counts)
        if array.ndim != 3 or array.shape[:2] != (len(rows), 2):
            raise InputError(f"{counts} does not belong to {table}: one of them is of another validation")
        return Scores(sorted(names), array, significance.mean_iou)
    if "prediction" in rows[0]:
        right = np.array([[row["truth"] == row["prediction"], 1] for row in rows])
        return Scores(names, right, significance.share)
    if "matched" in rows[0]:
        twice = [(2 * int(row["matched"]), int(row["missed"]) + int(row["wrong"])) for row in rows]
        return Scores(names, np.array([[found, found + other] for found, other in twice]), significance.share)  # F1
    return None
