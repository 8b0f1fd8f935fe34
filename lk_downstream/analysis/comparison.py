"""Runs side by side: of each model the mean over its runs, what it costs, and which differences are noise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from lk_downstream import trust
from lk_downstream.analysis.profiling import profile_tasks
from lk_downstream.analysis.runs import Run, differences
from lk_downstream.analysis.significance import intervals
from lk_downstream.errors import InputError, some
from lk_downstream.reports.comparison import Comparison, Costs, Model
from lk_downstream.reports.comparison_images import common_images
from lk_downstream.reports.files import write_json
from lk_downstream.tasks import load_task

SEED = "seed_everything"


def compare(
    groups: Mapping[str, Sequence[Run]],
    costs: Mapping[str, Costs] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    baseline: str | None = None,
) -> Comparison:
    """Compare models.

    Args:
        groups: The runs of each model, which differ in their seeds or folds.
        costs: What each model costs, measured in one run.
        published: Metrics of each model as its authors have published them, by name, fractions of 1.
        baseline: The model that the others are compared with; None: the first.

    Raises:
        InputError: There are no runs, or they have different metrics, or no such baseline.
    """
    groups = {name: list(runs) for name, runs in groups.items() if runs}
    every = [run for runs in groups.values() for run in runs]
    if not every:
        raise InputError("no run has been validated yet: there is nothing to compare")
    metrics = dict.fromkeys(run.metric for run in every)
    if len(metrics) > 1:
        raise InputError(f"the runs have different metrics ({some(metrics)}): compare runs of one task")
    names = list(groups)
    if baseline is not None and baseline not in groups:
        raise InputError(f"there is no model {baseline!r} to compare with; there are {some(names, 10)}")
    reference = names.index(baseline) if baseline else 0
    scores = [
        [run.scores for run in runs] if all(run.scores is not None for run in runs) else [] for runs in groups.values()
    ]
    found = intervals(scores, reference)
    models = []
    for (name, runs), interval in zip(groups.items(), found):
        models.append(
            Model(
                name=name,
                best=[run.best for run in runs],
                last=[run.last for run in runs],
                seconds=statistics.mean(run.seconds for run in runs),
                curves=[run.curve for run in runs],
                published=(published or {}).get(name, {}).get(every[0].metric),
                difference=interval,
                costs=(costs or {}).get(name),
                checkpoint=_best(runs).checkpoint,
            )
        )
    return Comparison(
        metric=every[0].metric,
        models=models,
        baseline=names[reference],
        differing=differences(every),
        devices=list(dict.fromkeys(run.device for run in every)),
        images=common_images({name: _best(runs).folder for name, runs in groups.items()}),
    )


def _best(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: run.best)


def costs_of(models: Sequence[Model], size: tuple[int, int], kept: Path) -> dict[str, Costs]:
    """What merged models cost, measured in turn in one process.

    Args:
        models: Those with a checkpoint are measured.
        size: Height and width of the images.
        kept: A JSON file of what was measured, which is taken where it is of the same checkpoints and size.

    Raises:
        InputError: A checkpoint cannot be read.
    """
    paths = {model.name: model.checkpoint for model in models if model.checkpoint}
    key = {name: f"{path.absolute()} {path.stat().st_mtime_ns} {size}" for name, path in paths.items()}
    with suppress(OSError, ValueError, TypeError, KeyError):
        content = trust.read_json(kept)
        if content["of"] == key:
            return {name: Costs(**{**costs, "size": size}) for name, costs in content["costs"].items()}
    profiles = profile_tasks({name: load_task(path) for name, path in paths.items()}, [size], forms=["merged"])
    found = {
        each.name: Costs(
            parameters=each.parameters,
            macs=each.macs,
            latency=each.latency,
            spread=(each.slow - each.fast) / 2,
            memory=each.memory * 2**20,
            size=size,
        )
        for each in profiles
    }
    write_json(kept, {"of": key, "costs": {name: asdict(costs) for name, costs in found.items()}})
    return found


def size_of_test(run: Run) -> tuple[int, int]:
    """Height and width of the images that a run is validated with, as far as its config says; else of a crop."""
    for name, swapped in (("model.inference.scale", True), ("data.crop_size", False), ("data.image_size", False)):
        value = run.settings.get(name)
        sides = [value] * 2 if isinstance(value, int) else value
        if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
            return (sides[1], sides[0]) if swapped else (sides[0], sides[1])
    return (512, 512) if run.metric == "mIoU" or "AP" in run.metric else (224, 224)


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by what they differ in, their seeds apart: by the values of those settings, or by their folders.

    Args:
        runs: Of any configs.
    """
    different = [name for name in differences(runs) if name != SEED]
    short = _short(different)
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(repr(run.settings.get(name)) for name in different), []).append(run)
    named: dict[str, list[Run]] = {}
    for members in groups.values():
        own = {name: members[0].settings.get(name) for name in different}
        name = str(own.get("model.backbone.name", "")) if "model.backbone.name" in own else ""
        rest = [f"{short[key]}={value}" for key, value in own.items() if key != "model.backbone.name"]
        if not 0 < len(rest) + bool(name) <= 3:  # of other tasks or recipes: too much for a name
            rest = [_place(members[0].folder)]
        shown = " ".join(filter(None, [name, *rest]))
        while shown in named:
            shown = f"{shown} ({_place(members[0].folder)})"
        named[shown] = members
    return named


def _short(names: Sequence[str]) -> dict[str, str]:
    """The last words of dotted names, as many as tell them apart."""
    found = {}
    for name in names:
        words = name.split(".")
        for count in range(1, len(words) + 1):
            end = ".".join(words[-count:])
            if sum(other == end or other.endswith("." + end) for other in names) == 1:
                break
        found[name] = end
    return found


def _place(folder: Path) -> str:
    absolute = folder.absolute()
    return f"{absolute.parent.name}/{absolute.name}"
