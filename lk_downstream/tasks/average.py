"""The mean of several checkpoints of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lk_downstream.backbones.files import read_run
from lk_downstream.errors import InputError

# What only resuming needs; the mean of several steps cannot be gone on from.
_OF_STEPS = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "averaging_state", "current_model_state")


def average_checkpoints(
    run: str | os.PathLike, output: str | os.PathLike, best: int | None = None, last: int | None = None
) -> list[Path]:
    """Write the mean of the best, or of the last, checkpoints of a run.

    Weights and batch statistics are averaged, in float64; whole numbers are those of the newest. The statistics are the
    mean of those of the checkpoints, not counted anew with the averaged weights (as ``torch.optim.swa_utils.update_bn``
    does), which steps near each other hardly differ in.

    Args:
        run: The run's folder, whose checkpoints were kept by ``--checkpoint.save_top_k``.
        output: File to write: a checkpoint to evaluate, to predict with, to export, and to start from.
        best: How many, by the metric that they were kept by.
        last: How many, by their steps.

    Returns:
        The checkpoints that were averaged.

    Raises:
        InputError: There are fewer, or they are of different models.
    """
    if (best is None) == (last is None) or (best or last or 0) < 1:
        raise InputError("average: give either --best or --last, and a number of at least 1")
    folder = Path(run) if Path(run).name == "checkpoints" else Path(run) / "checkpoints"
    steps = {path: int(found[1]) for path in folder.glob("*.ckpt") if (found := re.search(r"step=(\d+)", path.stem))}
    number = best or last
    if len(steps) < number:
        raise InputError(
            f"{folder} holds {len(steps)} checkpoints of steps, fewer than {number}: train with "
            "--checkpoint.save_top_k -1, which keeps that of every validation"
        )
    chosen = sorted(steps, key=steps.get)[-number:] if last else _best(folder, steps, number)
    if Path(output).resolve() in {path.resolve() for path in chosen}:
        raise InputError(f"{output} is one of the checkpoints to average: give another file")
    mean, newest = _mean(sorted(chosen, key=steps.get))
    content = {name: value for name, value in newest.items() if name not in _OF_STEPS}
    content |= {"state_dict": mean, "averaged": [path.name for path in chosen]}
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    torch.save(content, part)
    part.replace(target)
    return chosen


def _best(folder: Path, steps: dict[Path, int], number: int) -> list[Path]:
    """Those with the best metric, which the newest checkpoint knows, best first."""
    newest = folder / "last.ckpt" if (folder / "last.ckpt").is_file() else max(steps, key=steps.get)
    states: list[dict[str, Any]] = [
        state for name, state in read_run(newest).get("callbacks", {}).items() if name.startswith("Checkpoints{")
    ]
    models = states[0].get("best_k_models", {}) if states else {}
    scores = {re.split(r"[\\/]", path)[-1]: float(score) for path, score in models.items()}
    known = [path for path in steps if path.name in scores]
    if len(known) < number:
        raise InputError(f"{newest} knows the metrics of {len(known)} checkpoints, fewer than {number}: give --last")
    first = re.split(r"[\\/]", states[0]["best_model_path"])[-1]
    ordered = sorted(known, key=lambda path: (scores[path.name], steps[path]))
    rising = scores.get(first, max(scores.values())) >= max(scores.values())
    return list(reversed(ordered))[:number] if rising else ordered[:number]


def _mean(paths: list[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The mean of the tensors, and what the last of the files holds."""
    total: dict[str, Tensor] = {}
    for path in paths:
        content = read_run(path)
        state = content["state_dict"]
        if total and {name: value.shape for name, value in state.items()} != {k: v.shape for k, v in total.items()}:
            raise InputError(f"{path} and {paths[0]} are of different models: average checkpoints of one run")
        for name, value in state.items():
            added = name in total and value.is_floating_point()
            wide = value.double() if value.is_floating_point() else value
            total[name] = total[name] + wide if added else wide
    return {
        name: (total[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in state.items()
    }, content
