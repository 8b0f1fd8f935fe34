"""Metrics of a robustness evaluation: one table, one file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from lk_downstream.data.cue_conflict import CATEGORIES
from lk_downstream.data.robustness import BENCHMARKS, Part, Trees
from lk_downstream.machine import shown_path
from lk_downstream.metrics.robustness import (
    ALEXNET_ERRORS,
    PartAccuracy,
    ShapeBias,
    corruption_error,
    mean_corruption_error,
)
from lk_downstream.reports.files import write_json
from lk_downstream.reports.tables import robustness_table

RESTRICTED = ("imagenet_a", "imagenet_r")  # whose authors compare the logits of their classes alone


class RobustnessReport(L.Callback):
    """Counts the images of :class:`lk_downstream.data.robustness.RobustnessData`, prints a table and writes
    ``robustness.json``.

    Args:
        trees: What is evaluated.

    Attributes:
        results: See :func:`summarize`; from the end of the validation on.
    """

    def __init__(self, trees: Trees):
        self.trees = trees
        choices = [part.tree.choice() for part in trees.parts]
        whole = [part.benchmark not in RESTRICTED for part in trees.parts]
        self.metric = PartAccuracy(torch.stack(choices) | torch.tensor(whole)[:, None])
        cues = any(part.benchmark == "cue_conflict" for part in trees.parts)
        self.shape_bias = ShapeBias(tuple(CATEGORIES.values()), len(choices[0])) if cues else None
        self.results: dict[str, dict[str, Any]] = {}

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Count where the network is."""
        self.metric.to(task.device)
        if self.shape_bias:
            self.shape_bias.to(task.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: dict[str, Tensor],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch, by its logits ``prediction``."""
        self.metric.update(outputs["prediction"], batch["label"], batch["part"])
        if self.shape_bias:
            self.shape_bias.update(outputs["prediction"], batch["label"], batch["texture"])

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Print and write the metrics of all processes."""
        task.results.clear()  # those of all benchmarks together, of which nothing shall be drawn
        hits, images = (counts.reshape(-1).tolist() for counts in self.metric.compute())  # of one part: no list
        self.results = summarize(self.trees, hits, images)
        if self.shape_bias:
            counts = {name: values.tolist() for name, values in self.shape_bias.compute().items()}
            name = BENCHMARKS["cue_conflict"].name
            self.results[name] |= summarize_cues(counts, self.results[name]["images"])
        path = Path(trainer.default_root_dir) / "robustness.json"
        if trainer.is_global_zero:
            write_json(path, self.results)
            console = Console(soft_wrap=True)
            console.print(robustness_table(self.results))
            console.print(f"\nmetrics      {shown_path(path)}", markup=False)


def summarize(trees: Trees, hits: list[int], images: list[int]) -> dict[str, dict[str, Any]]:
    """The metrics of each benchmark, fractions of 1, by its name.

    Args:
        trees: The parts, and what is missing.
        hits: Right top-1 predictions of each part.
        images: Number of images of each part.

    Returns:
        ``top1`` (of corrupted sets the mean over corruptions of the mean over severities), ``images``, ``classes``
        and ``missing``, what makes the metrics partial. Of corrupted sets also ``error``, which is 1 - ``top1``, and
        ``corruptions``: ``error``, ``errors`` by severity and, of ImageNet-C, ``CE``; of ImageNet-C also ``mCE``.
    """
    results: dict[str, dict[str, Any]] = {}
    for key, missing in trees.missing.items():
        rows = [row for row in zip(trees.parts, hits, images) if row[0].benchmark == key]
        classes = max(len(part.tree.found) for part, _, _ in rows)
        common = {"images": sum(number for _, _, number in rows), "classes": classes, "missing": missing}
        if BENCHMARKS[key].corruptions:
            results[BENCHMARKS[key].name] = {**_corruptions(rows), **common}
        else:
            results[BENCHMARKS[key].name] = {"top1": rows[0][1] / rows[0][2], **common}
    return results


def summarize_cues(counts: dict[str, list[int]], images: int) -> dict[str, Any]:
    """The metrics of images of conflicting cues, fractions of 1; NaN where nothing was decided either way.

    Args:
        counts: By category of the shape, see :meth:`ShapeBias.compute`.
        images: Number of images, those without a conflict too.

    Returns:
        ``top1`` (of 16 categories, by the shape), ``shape_bias``, ``shape`` and ``texture`` (the shares of the
        conflicts that are decided so), ``conflicts``, and ``categories``: the shape bias of each.
    """
    shape, texture, conflicts = (sum(counts[name]) for name in ("shape", "texture", "conflicts"))
    rows = zip(CATEGORIES, counts["shape"], counts["texture"])
    return {
        "top1": _share(sum(counts["hits"]), images),
        "shape_bias": _share(shape, shape + texture),
        "shape": _share(shape, conflicts),
        "texture": _share(texture, conflicts),
        "conflicts": conflicts,
        "categories": {name: _share(one, one + other) for name, one, other in rows},
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _corruptions(rows: list[tuple[Part, int, int]]) -> dict[str, Any]:
    errors: dict[str, dict[int, float]] = {}
    for part, hit, number in rows:
        errors.setdefault(part.corruption, {})[part.severity] = 1 - hit / number
    published = errors.keys() <= ALEXNET_ERRORS.keys()
    corruptions = {
        name: {
            "error": math.fsum(values.values()) / len(values),
            **({"CE": corruption_error(name, values)} if published else {}),
            "errors": {str(severity): value for severity, value in values.items()},
        }
        for name, values in errors.items()
    }
    error = math.fsum(row["error"] for row in corruptions.values()) / len(corruptions)
    mean = {"mCE": mean_corruption_error(errors)} if published else {}
    return {**mean, "error": error, "top1": 1 - error, "corruptions": corruptions}
