"""Validation images taken from the training split: a share or one of k folds, stratified, groups kept together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream.data.class_table import FILE_COLUMNS, column, read_table
from lk_downstream.data.pairing import same_letters
from lk_downstream.errors import InputError, some

GROUP_COLUMNS = ("group", "video", "sequence", "scene", "patient", "subject", "site")


class Splits:
    """Divides a data set in two, by a seed, in the same way in every process and every run.

    Each stratum (a class, see :mod:`lk_downstream.data.strata`) is divided in the same ratio, to within one image; with
    groups, which are never divided, as well as they allow.

    Args:
        val_fraction: Share of the images to validate on; None: a fold, or nothing is divided.
        fold: The one of the ``folds`` to validate on, from 0; None: a share, or nothing is divided.
        folds: Number of folds, each of which has as many images, to within one.
        group_by: What tells the group of an image: a regular expression, of which the first group of its first match in
            the name counts (or the whole match), such as ``(seq[0-9]+)_``; or a CSV file below the data set's root,
            ``FILE.csv`` or ``FILE.csv:COLUMN``, with a row for each image.
        seed: Of the division.

    Raises:
        InputError: An option is out of its range.
    """

    def __init__(
        self,
        val_fraction: float | None = None,
        fold: int | None = None,
        folds: int = 5,
        group_by: str | None = None,
        seed: int = 0,
    ):
        if val_fraction is not None and fold is not None:
            raise InputError("data.val_fraction and data.fold exclude one another: leave out one of them")
        if val_fraction is not None and not 0 < val_fraction < 1:
            raise InputError(f"data.val_fraction is {val_fraction}: it must be above 0 and below 1")
        if folds < 2 or (fold is not None and not 0 <= fold < folds):
            raise InputError(f"data.fold is {fold} of data.folds {folds}: give two folds or more, and one of 0, 1, ...")
        if group_by and val_fraction is None and fold is None:
            raise InputError("data.group_by divides nothing alone: set data.val_fraction or data.fold")
        self.val_fraction, self.fold, self.folds, self.group_by, self.seed = val_fraction, fold, folds, group_by, seed

    @property
    def active(self) -> bool:
        """Whether anything is divided; if not, the validation has a split of its own."""
        return self.val_fraction is not None or self.fold is not None

    @property
    def division(self) -> dict[str, Any]:
        """What it depends on, as plain data, for checkpoints; empty if nothing is divided."""
        if not self.active:
            return {}
        how = {"val_fraction": self.val_fraction} if self.fold is None else {"fold": self.fold, "folds": self.folds}
        return how | {"group_by": self.group_by, "split_seed": self.seed}

    def val_split(self, own: str, train: str) -> str:
        """The split that validation images come from.

        Args:
            own: The option ``val_split``.
            train: The training split.

        Raises:
            InputError: Both the validation split and a part of the training split are asked for.
        """
        if self.active and own != "val":
            option = "val_fraction" if self.fold is None else "fold"
            raise InputError(
                f"data.val_split is {own!r}, but data.{option} takes a part of {train!r} to validate on: set "
                f"data.{option} null, or leave out data.val_split (val)"
            )
        return train if self.active else own

    def refuse_other(self, division: dict[str, Any]) -> None:
        """Raise an InputError if a checkpoint has another division, by which it was trained on what is held out now."""
        if self.active and division and division != self.division:
            one, other = (", ".join(f"{name} {value}" for name, value in d.items()) for d in (division, self.division))
            raise InputError(
                f"--ckpt_path: the checkpoint was trained on another part of the data ({one}) than what these options "
                f"leave ({other}), and has seen images that are held out now: set the same options"
            )

    def parts(
        self, count: int, strata: np.ndarray | None, names: Callable[[], Sequence[str]], root: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the images to train on and to validate on, int64, rising.

        Args:
            count: Number of images.
            strata: The class of each that counts, int (N,); None: all are alike.
            names: Gives the name of each.
            root: Folder of the data set, where a CSV file of ``group_by`` lies.

        Raises:
            InputError: There are too few images or groups, or an image without a group.
        """
        strata = np.zeros(count, np.int64) if strata is None else np.unique(strata, return_inverse=True)[1].ravel()
        fraction = self.val_fraction
        shares = [1 / self.folds] * self.folds if fraction is None else [fraction, 1 - fraction]
        groups = np.unique(self._groups(names(), root), return_inverse=True)[1] if self.group_by else None
        units, what = count, "images"
        if groups is not None:
            units, what = groups.max(initial=-1) + 1, f"groups of {self.group_by}"
        if units < len(shares):
            number = len(shares)
            raise InputError(f"{root} has {units} {what}, too few for {number} parts: ask for fewer or group otherwise")
        rng = np.random.default_rng(self.seed)
        part = single_parts(strata, shares, rng) if groups is None else group_parts(groups, strata, shares, rng)
        held = part == (self.fold or 0)
        if held.all() or not held.any():
            raise InputError(f"{held.sum()} of {count} images would be validated on: change data.val_fraction")
        return np.flatnonzero(~held), np.flatnonzero(held)

    def _groups(self, names: Sequence[str], root: Path) -> list[str]:
        file, _, wanted = self.group_by.partition(":")
        if file.lower().endswith(".csv"):
            return _groups_of_table(root / file, wanted or None, names)
        try:
            matches = [re.search(self.group_by, name) for name in names]
        except re.error as error:
            raise InputError(f"data.group_by {self.group_by!r} is no regular expression ({error})") from error
        if other := [name for name, match in zip(names, matches) if not match]:
            raise InputError(
                f"data.group_by {self.group_by!r} matches nothing in {len(other)} of {len(names)} names, such as "
                f"{other[0]}: every image needs a group"
            )
        return [match[1] if match.re.groups and match[1] is not None else match[0] for match in matches]


def _groups_of_table(path: Path, wanted: str | None, names: Sequence[str]) -> list[str]:
    rows = read_table(path)
    file = column(path, rows[0], None, ("name", *FILE_COLUMNS), "the first")
    group = column(path, rows[0], wanted, GROUP_COLUMNS, "data.group_by FILE.csv:COLUMN")
    known = {_stem(str(row[file])): str(row[group]) for row in rows}
    if lacking := [name for name in names if _stem(name) not in known]:
        raise InputError(f"{path} has no row for {len(lacking)} of {len(names)} images ({some(lacking, 2)})")
    return [known[_stem(name)] for name in names]


def _stem(name: str) -> str:
    return os.path.splitext(same_letters(name.replace("\\", "/").removeprefix("./")))[0]


def single_parts(strata: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """The part of each image, int64 (N,): images in a random order within their strata are dealt out in turn.

    Each part has its share of the images, and of each stratum, to within one.

    Args:
        strata: Number of the stratum of each image, int (N,).
        shares: Of the parts; all alike, or two.
        rng: Chance.
    """
    count, turn = len(strata), rng.permutation(strata.max(initial=0) + 1)  # no class is always the first
    order = np.lexsort((rng.permutation(count), turn[strata]))
    places, part = np.arange(count), np.empty(count, np.int64)
    if len(shares) == 2:
        steps = np.floor(np.arange(count + 1) * shares[0] + 0.5)
        part[order] = np.where(np.diff(steps) > 0, 0, 1)
    else:
        part[order] = places % len(shares)
    return part


def group_parts(
    groups: np.ndarray, strata: np.ndarray, shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """The part of each image, int64 (N,), such that groups stay whole.

    The largest group first, each goes where the parts then differ least from their shares of images and of strata (by
    the sum of squared differences over what is expected).

    Args:
        groups: Number of the group of each image, int (N,), all of 0 to the largest.
        strata: Number of the stratum of each image, int (N,).
        shares: Of the parts.
        rng: Chance, which decides between groups of one size.
    """
    number, kinds = int(groups.max()) + 1, int(strata.max()) + 1
    pairs, counts = np.unique(groups * kinds + strata, return_counts=True)
    first = np.searchsorted(pairs, np.arange(number + 1) * kinds)
    sizes, part_of = np.bincount(groups, minlength=number), np.empty(number, np.int64)
    # The last column are all images.
    expected = np.outer(shares, np.append(np.bincount(strata, minlength=kinds), len(strata)))
    have = np.zeros_like(expected)
    for group in np.lexsort((rng.permutation(number), -sizes)):
        own = slice(first[group], first[group + 1])
        columns, added = np.append(pairs[own] % kinds, kinds), np.append(counts[own], sizes[group])
        before = have[:, columns] - expected[:, columns]
        part = int((((before + added) ** 2 - before**2) / expected[:, columns]).sum(1).argmin())
        have[part, columns] += added
        part_of[group] = part
    for part in range(len(shares)):  # a share that is smaller than every group gets the smallest
        if not (part_of == part).any():
            many = np.flatnonzero(part_of == np.bincount(part_of).argmax())
            part_of[many[sizes[many].argmin()]] = part
    return part_of[groups]
