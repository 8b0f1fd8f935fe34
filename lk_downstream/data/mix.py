"""Training on several data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Dataset

from lk_downstream.errors import InputError, some


class Mix:
    """Further data sets to train on, of the same classes; validation is on ``data.dataset`` alone.

    Args:
        datasets: Each makes the data set of a split, as ``data.dataset`` does.
        ratios: Shares of a pass, the first that of ``data.dataset``, then one for each of these; None: by their sizes.
        split: Which split of them.
    """

    def __init__(
        self,
        datasets: list[Callable[[str], Dataset]],
        ratios: list[float] | None = None,
        split: str = "train",
    ):
        if not datasets:
            raise InputError("data.mix has no datasets: name one or more, or leave it out")
        if ratios is not None and (len(ratios) != len(datasets) + 1 or min(ratios) <= 0):
            raise InputError(
                f"data.mix.ratios is {list(ratios)}: give {len(datasets) + 1} positive numbers, the first for "
                "data.dataset"
            )
        self.datasets, self.ratios, self.split = list(datasets), ratios, split

    def parts(self, classes: Sequence[str]) -> list[Dataset]:
        """The data sets.

        Raises:
            InputError: One has other classes than ``classes``.
        """
        made = [dataset(self.split) for dataset in self.datasets]
        for part in made:
            if tuple(part.classes) != tuple(classes):
                other = [name for name in (*part.classes, *classes) if (name in part.classes) != (name in classes)]
                what = f"have other classes ({some(other)})" if other else "have the classes in another order"
                raise InputError(f"data.mix: {getattr(part, 'root', type(part).__name__)}: the data {what}")
        return made

    def draws(self, sizes: Sequence[int], draws: np.ndarray | None) -> np.ndarray | None:
        """How often each sample is drawn in a pass on average, by the ratios; the pass is as long as it was.

        Args:
            sizes: Number of samples of ``data.dataset`` and of each of these.
            draws: By a rule of another kind, which stays within each data set; None: all equally often.
        """
        if self.ratios is None:
            return draws
        draws = np.ones(sum(sizes)) if draws is None else draws.copy()
        total, ends = draws.sum(), list(accumulate(sizes))
        for ratio, size, end in zip(self.ratios, sizes, ends):
            own = draws[end - size : end]
            own *= total * ratio / sum(self.ratios) / own.sum()
        return draws
