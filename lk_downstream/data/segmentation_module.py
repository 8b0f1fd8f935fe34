"""Data module for semantic segmentation."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch.utils.data import Subset
from torchvision.transforms import v2

from lk_downstream.data.batch_distortion import KEY, DrawnDistortion, distort_batch
from lk_downstream.data.distortion import PhotoMetricDistortion
from lk_downstream.data.doubts import doubts
from lk_downstream.data.duplicates import warn_of_same, warn_of_shared
from lk_downstream.data.mix import Mix
from lk_downstream.data.module import DataModule
from lk_downstream.data.sampling import Sampling
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.data.splits import Splits
from lk_downstream.data.strata import of_masks
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.transforms import training_transform
from lk_downstream.errors import InputError


class SegmentationData(DataModule):
    """Training batches by the papers' pipeline, validation images at their original size.

    A training batch is ``{"image": uint8 (N, 3, h, w), "mask": uint8 (N, h, w), "size": int64 (N, 2), "name": list}``
    with ``size`` the height and width that are not padding; a validation batch has the same keys. Images stay uint8:
    the task normalises them by the mean and standard deviation of its weights.

    Args:
        dataset: Makes the data set of a split, such as the class :class:`ADE20K` with its ``root``.
        batch_size: Images per optimizer step, over all devices and accumulated batches.
        crop_size: Side, or height and width, of the training crop.
        scale: Width and height that a random ratio multiplies; an image is resized to fit, its aspect ratio kept.
        ratio_range: Smallest and largest ratio.
        cat_max_ratio: Largest share of one class in a crop; 1 accepts every crop.
        flip: Probability of a horizontal flip.
        distortion: Whether to change brightness, contrast, saturation and hue.
        augment_on: Where that is done: by the ``worker`` that loads an image, or on whole batches by the ``device``
            that trains, with the same draws, which gives the same to one grey level; ``auto``: on a GPU.
        val_batch_size: Validation images per batch of one device; more than 1 needs images of one size.
        workers: Loader processes per device; None: a number that fits the cores; 0: load in the training process.
        repeat: How often an epoch passes the training split; more than 1 for small data sets.
        train_split: Name of the training split.
        val_split: Name of the validation split.
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
        label_values: uint8, (256,): the value that stands for each class index in the data set's mask files.
    """

    def __init__(
        self,
        dataset: Callable[[str], SegmentationDataset],
        batch_size: int = 16,
        crop_size: int | tuple[int, int] = 512,
        scale: tuple[int, int] = (2048, 512),
        ratio_range: tuple[float, float] = (0.5, 2.0),
        cat_max_ratio: float = 0.75,
        flip: float = 0.5,
        distortion: bool = True,
        augment_on: Literal["auto", "device", "worker"] = "auto",
        val_batch_size: int = 1,
        workers: int | None = None,
        repeat: int = 1,
        train_split: str = "train",
        val_split: str = "val",
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
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        if min(self.crop_size) < 1:
            raise InputError(f"data.crop_size is {crop_size}: it must be at least 1")
        if min(scale) < 1:
            raise InputError(f"data.scale is {list(scale)}: both sides must be at least 1")
        if not 0 < ratio_range[0] <= ratio_range[1]:
            raise InputError(f"data.ratio_range is {list(ratio_range)}: give two positive numbers, the smaller first")
        if not 0 < cat_max_ratio <= 1:
            raise InputError(f"data.cat_max_ratio is {cat_max_ratio}: it must be above 0 and at most 1")
        if not 0 <= flip <= 1:
            raise InputError(f"data.flip is {flip}: it is a probability, 0 to 1")
        self.synthetic = synthetic
        # Made here to know the classes; the files are listed in setup.
        self.train_data, self.val_data = dataset(train_split), dataset(splits.val_split(val_split, train_split))
        self.classes, self.palette = self.train_data.classes, self.train_data.palette
        self.ignore_index = self.train_data.ignore_index
        self.use_range(value_range)
        self.label_values = self.train_data.label_values
        self.geometry = (self.crop_size, tuple(scale), tuple(ratio_range), cat_max_ratio, flip)
        self.distortion, self.augment_on = distortion, augment_on

    @property
    def transform(self) -> v2.Compose:
        """From an item of the data set to a sample of a training batch."""
        kind = DrawnDistortion if self._distorts_on_device else PhotoMetricDistortion
        return training_transform(*self.geometry, kind() if self.distortion else None)

    @property
    def _distorts_on_device(self) -> bool:
        if self.trainer is None:  # then nothing calls on_after_batch_transfer
            return False
        return self.augment_on == "device" or (
            self.augment_on == "auto" and self.trainer.strategy.root_device.type != "cpu"
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Distort the colours of a batch on its device."""
        if isinstance(batch, dict) and KEY in batch:
            amounts = batch.pop(KEY)
            if batch["image"].shape[1] == 3:  # it is made for colours
                batch["image"] = distort_batch(batch["image"], amounts)
        return batch

    def preparation(self) -> dict[str, Any]:
        """See :meth:`DataModule.preparation`."""
        return {**super().preparation(), "label_values": self.label_values.tolist()}

    def prepare_data(self) -> None:
        """Write the generated data set if one is wanted and the root does not exist (Lightning: in one process)."""
        if self.synthetic is not None and not self.train_data.root.exists():
            self.train_data.write_synthetic(self.synthetic)
        if self._world_size > 1:
            needed = {"fit": (self.train_data, self.val_data), "validate": (self.val_data,)}
            for data in needed.get(self.trainer.state.fn, ()):
                with contextlib.suppress(InputError):  # which all processes say in setup
                    data.prepare()

    def setup(self, stage: str | None = None) -> None:
        """List the files of the splits that the stage (fit, validate, predict) needs.

        Raises:
            InputError: Files are missing, see :class:`SegmentationDataset`.
        """
        if stage not in (None, "fit", "validate"):
            return
        train, val, fit, same = self.train_data, self.val_data, stage != "validate", False
        if self.splits.active:
            names = [name for name, _, _ in train.samples]
            parts = self.splits.parts(len(names), of_masks(train), lambda: names, train.root)
            train, val = (Subset(self.train_data, part) for part in parts)
        elif fit:
            len(train)
            same = warn_of_same(train.source, val.source, self._rank)
        if fit:
            if self.synthetic is None and self._rank == 0:
                for doubt in doubts(self.train_data):
                    warnings.warn(f"{self.train_data.root}, {self.train_data.split}: {doubt}", stacklevel=2)
            others = self.mix.parts(self.classes) if self.mix else []
            self.train_set = self.mixed(train, others, self.transform)
        len(val)
        self.val_set = val
        if fit and not same and self.synthetic is None:
            warn_of_shared(train, val, self._rank)
