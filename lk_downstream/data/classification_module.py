"""Data module for classification."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from lk_downstream.data.batches import Transformed
from lk_downstream.data.classes import default_palette
from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.classification_transforms import EvaluationImage, TrainingImage, collate_images
from lk_downstream.data.duplicates import warn_of_same, warn_of_shared
from lk_downstream.data.mix import Mix
from lk_downstream.data.module import DataModule
from lk_downstream.data.pairing import same_letters
from lk_downstream.data.sampling import Sampling
from lk_downstream.data.splits import Splits
from lk_downstream.data.strata import of_labels
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError, near_names, some


class ClassificationData(DataModule):
    """Images of one size with a label, augmented as by the papers for training, resized as by them for evaluation.

    A batch is ``{"image": uint8 (N, 3, size, size), "label": int64 (N,), "name": list}``; of images with several
    labels (:class:`ClassTable`) it has ``labels`` float32 (N, classes) of 0 and 1. Images stay uint8: the task
    normalises them, and erases and mixes them, which is done on whole batches on the device.

    Args:
        dataset: Makes the data set of a split, such as the class :class:`ImageNet` with its ``root``.
        batch_size: Images per optimizer step, over all devices and accumulated batches.
        size: Side of the square images.
        val_size: Side in evaluation; None: ``size``.
        crop: Share of the resized short side that evaluation crops; 1 resizes to the square. None: as the papers,
            0.875 below 384 pixels, else 1.
        scale: Smallest and largest share of an image's area that the training crop takes.
        ratio: Smallest and largest ratio of its sides.
        flip: Probability of a horizontal flip.
        auto_augment: timm's name of an augmentation policy; None: none.
        color_jitter: Strength of changes of brightness, contrast and saturation, only without ``auto_augment``.
        val_batch_size: Images per evaluation batch of one device.
        workers: Loader processes per device; None: a number that fits the cores; 0: load in the training process.
        repeat: How often an epoch passes the training split; more than 1 for small data sets.
        train_split: Name of the training split.
        val_split: Name of the validation split; None: there is none.
        predict: An image or a folder of images to predict on.
        synthetic: A generated data set to write in the layout of ``dataset`` if its root does not exist; None: never.
        seed: Of the order of the training data; None: the one given to ``seed_everything``, or 0.
        skip_damaged: Train without the images and masks that cannot be read, and list them at the end.
        val_fraction: Share of the training split to validate on in place of ``val_split``, stratified by class.
        fold: The one of ``folds`` parts of the training split to validate on, from 0, likewise.
        folds: Number of those parts.
        group_by: Keeps images of one group (a video, a patient) together: a regular expression on their names, such as
            ``(seq[0-9]+)_``, or a CSV file below the root, see :class:`lk_downstream.data.splits.Splits`.
        split_seed: Of that division.
        sampling: Which training samples are drawn more often: ``ClassBalanced``, ``RepeatFactor`` or ``WeightColumn``.
        mix: Further data sets to train on, of the same classes.
        value_range: Values of images with more than 8 bits per channel that become 0 and 255, such as ``[0, 10000]``.

    Attributes:
        multilabel: Whether an image may have several labels.
    """

    collate_train = collate_val = staticmethod(collate_images)

    def __init__(
        self,
        dataset: Callable[[str], ClassFolder],
        batch_size: int = 1024,
        size: int = 224,
        val_size: int | None = None,
        crop: float | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        color_jitter: float = 0.4,
        val_batch_size: int = 64,
        workers: int | None = None,
        repeat: int = 1,
        train_split: str = "train",
        val_split: str | None = "val",
        predict: str | None = None,
        synthetic: Synthetic | None = None,
        seed: int | None = None,
        skip_damaged: bool = False,
        val_fraction: float | None = None,
        fold: int | None = None,
        folds: int = 5,
        group_by: str | None = None,
        split_seed: int = 0,
        sampling: Sampling | None = None,
        mix: Mix | None = None,
        value_range: tuple[float, float] | None = None,
    ):
        splits = Splits(val_fraction, fold, folds, group_by, split_seed)
        own = (batch_size, val_batch_size, workers, repeat, predict, seed, skip_damaged, splits, sampling, mix)
        super().__init__(*own)
        for name, side in (("size", size), ("val_size", val_size)):
            if side is not None and side < 1:
                raise InputError(f"data.{name} is {side}: it must be at least 1")
        self.synthetic = synthetic
        self.train_data = dataset(train_split)
        own = splits.val_split(val_split or "val", train_split) if splits.active else val_split
        self.val_data = dataset(own) if own else None
        # The classes of a folder are its folders; for an evaluation alone those of its split are enough.
        known = self.train_data if self.val_data is None or self.train_data.source.exists() else self.val_data
        self.classes, self.palette = known.classes, default_palette(len(known.classes))
        self.multilabel = known.multilabel
        self.use_range(value_range)
        if len(self.classes) == 1 and not self.multilabel:
            raise InputError(
                f"{known.source} holds a single class folder, {self.classes[0]}, so that there is nothing to tell "
                "apart: it has to hold one for each class, two or more"
            )
        self.train_transform = TrainingImage(size, tuple(scale), tuple(ratio), flip, auto_augment, color_jitter)
        self.val_transform = EvaluationImage(val_size or size, crop)

    def preparation(self) -> dict[str, Any]:
        """See :meth:`DataModule.preparation`."""
        return {**super().preparation(), "size": self.val_transform.size, "crop": self.val_transform.crop}

    def prepare_data(self) -> None:
        """Write the generated data set if one is wanted and the root does not exist (Lightning: in one process)."""
        if self.synthetic is not None and not self.train_data.root.exists():
            self.train_data.write_synthetic(self.synthetic)
        if self._world_size > 1 and self.train_data.source.exists():
            with contextlib.suppress(InputError):  # which all processes say in setup
                len(self.train_data)  # one process lists the files, and the others find the list

    def setup(self, stage: str | None = None) -> None:
        """List the files of the splits that the stage (fit, validate, predict) needs.

        Raises:
            InputError: Files are missing, see :class:`ClassFolder`, or the splits differ in their classes.
        """
        if stage not in (None, "fit", "validate"):
            return
        train, val, fit, same = self.train_data, self.val_data, stage != "validate", False
        if self.splits.active:
            paths, labels = train.samples
            names = lambda: [os.fsdecode(path) for path in paths]  # noqa: E731
            parts = self.splits.parts(len(labels), of_labels(labels), names, train.root)
            train, val = (Subset(self.train_data, part) for part in parts)
            self._warn_of_absent(f"the validation part of {self.train_data.source}", labels[parts[1]])
        elif val is not None:
            if fit:
                same = warn_of_same(train.source, val.source, self._rank)
            if train.source.exists():
                share_classes(train, val)
                self._warn_of_absent(val.source, val.samples[1])
        if fit:
            len(train)
            others = self.mix.parts(self.classes) if self.mix else []
            self.train_set = self.mixed(train, others, self.train_transform)
        if val is not None:
            len(val)
            self.val_set = Transformed(val, self.val_transform)
        if fit and val is not None and not same and self.synthetic is None:
            warn_of_shared(train, val, self._rank)

    def _warn_of_absent(self, what: Path | str, labels: np.ndarray) -> None:
        """Name the classes that are trained but that no validation image has."""
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(self.classes))
        trained = set(self.train_data.found)
        pairs = zip(self.classes, self.train_data.class_folders, counts)
        absent = [name for name, folder, count in pairs if not count and folder in trained]
        if absent and self._rank == 0:
            warnings.warn(
                f"{what} has no images of {len(absent)} of {len(self.classes)} classes ({some(absent, 3)}), which "
                "are trained but not evaluated",
                stacklevel=3,
            )

    def val_dataloader(self) -> DataLoader | list:
        """Every validation image once over all devices; no loader where there is no validation split."""
        return super().val_dataloader() if self.val_data is not None else []

    def predict_data(self) -> Dataset:
        """The images of ``predict``, resized as for evaluation."""
        return Transformed(super().predict_data(), self.val_transform)


def share_classes(train: ClassFolder, val: ClassFolder) -> None:
    """Give the validation split the classes of the training split, some of which it may lack.

    Raises:
        InputError: It has a class that the training split lacks.
    """
    trained, evaluated = ({same_letters(name) for name in data.found} for data in (train, val))
    if only := sorted(evaluated - trained):
        hint = near_names(only[0], trained - evaluated)
        raise InputError(
            f"{val.source} has classes that {train.source} lacks, {len(only)} of {len(val.found)} ({some(only, 3)}): "
            f"what is evaluated has to be trained on{hint}"
        )
    val.known = train.class_folders
