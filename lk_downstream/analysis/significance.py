"""Which differences between models are noise: intervals over the images and the seeds.

Two sources of chance are in a difference: the images that were drawn for the validation set, and the seed of the
training. The first is measured by the bootstrap over images, paired, as all models see the same; the second by the
spread over seeds, taken to be alike for all models that are compared, since two or three seeds of one tell little
(Student's distribution, as in an analysis of variance). Both are added draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000


class Scores(NamedTuple):
    """What a run says of each image, in a form whose sum over images gives the metric.

    Attributes:
        names: Of the images.
        counts: (images, ...) numbers that are summed over images, such as intersection and union of each class.
        metric: From sums (draws, ...) to the metric (draws,), a fraction of 1.
    """

    names: Sequence[str]
    counts: np.ndarray
    metric: Callable[[np.ndarray], np.ndarray]


class Interval(NamedTuple):
    """A difference and where 95 % of the draws lie.

    Attributes:
        difference: Between the means over seeds.
        low, high: Ends of the interval.
        seeds: Whether the chance of the training is in it; without, only that of the images.
    """

    difference: float
    low: float
    high: float
    seeds: bool

    @property
    def noise(self) -> bool:
        """Whether zero lies inside."""
        return self.low <= 0 <= self.high


def mean_iou(sums: np.ndarray) -> np.ndarray:
    """Sums (draws, 2, classes) of intersections and unions -> mean IoU (draws,) over the classes that occur."""
    intersections, unions = sums[:, 0], sums[:, 1]
    occurs = unions > 0
    each = np.divide(intersections, unions, out=np.zeros_like(intersections), where=occurs)
    return each.sum(1) / np.maximum(occurs.sum(1), 1)


def share(sums: np.ndarray) -> np.ndarray:
    """Sums (draws, 2) of a part and of its whole -> the first in the second (draws,), as right among all images."""
    return sums[:, 0] / np.maximum(sums[:, 1], 1)


def intervals(
    models: Sequence[Sequence[Scores]], baseline: int = 0, draws: int = DRAWS, seed: int = 0
) -> list[Interval | None]:
    """The difference of each model to one of them, with its interval.

    Args:
        models: For each, the scores of its runs, which differ in their seeds.
        baseline: Index of the one that the others are compared with.
        draws: Samples of the bootstrap.
        seed: Of the draws.

    Returns:
        An interval for each model; None for the baseline, and for those that share no images with it or have no scores.
    """
    reference = models[baseline]
    if not reference:
        return [None] * len(models)
    names = list(reference[0].names)
    comparable = [bool(runs) and all(set(run.names) == set(names) for run in runs) for runs in models]
    if not comparable[baseline] or not names or len(set(names)) < len(names):
        return [None] * len(models)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    weights = np.concatenate([np.ones((1, len(names))), weights])  # first the images as they are
    values = [
        np.stack([_metric(run, names, weights) for run in runs]) if fits else None
        for runs, fits in zip(models, comparable)
    ]  # each (runs, 1 + draws)
    freedom = sum(len(each) - 1 for each in values if each is not None)
    squares = sum(((each[:, 0] - each[:, 0].mean()) ** 2).sum() for each in values if each is not None)
    spread = (squares / freedom) ** 0.5 if freedom else 0.0
    chance = spread * (generator.standard_t(freedom, draws) if freedom else np.zeros(draws))
    found: list[Interval | None] = []
    for index, each in enumerate(values):
        if each is None or index == baseline:
            found.append(None)
            continue
        own, other = each.mean(0), values[baseline].mean(0)
        moved = own[1:] - other[1:] + chance * (1 / len(each) + 1 / len(values[baseline])) ** 0.5
        low, high = np.quantile(moved, (0.025, 0.975))
        found.append(Interval(float(own[0] - other[0]), float(low), float(high), bool(freedom)))
    return found


def _metric(run: Scores, names: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """The metric for each row of weights (draws, images)."""
    place = {name: index for index, name in enumerate(run.names)}
    counts = run.counts[[place[name] for name in names]].astype(np.float64)
    sums = weights @ counts.reshape(len(names), -1)
    return run.metric(sums.reshape(len(weights), *counts.shape[1:]))
