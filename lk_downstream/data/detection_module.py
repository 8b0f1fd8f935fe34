"""Data module for detection and instance segmentation."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from lk_downstream.data.batches import Transformed
from lk_downstream.data.classes import bright_palette
from lk_downstream.data.coco_index import CROWDS
from lk_downstream.data.detection import DetectionDataset
from lk_downstream.data.detection_batches import collate_detection
from lk_downstream.data.detection_transforms import ResizeToFit, training_transform
from lk_downstream.data.duplicates import warn_of_same, warn_of_shared
from lk_downstream.data.image_folder import ImageFolder
from lk_downstream.data.mix import Mix
from lk_downstream.data.module import DataModule
from lk_downstream.data.sampling import Sampling
from lk_downstream.data.splits import Splits
from lk_downstream.data.strata import of_objects
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.synthetic_layouts import COCO_LOOKS
from lk_downstream.errors import InputError, some


class DetectionData(DataModule):
    """Training batches by the papers' pipeline, validation images resized to the evaluation's scale.

    A batch, see :func:`collate_detection`, holds images that are all wider than high or all not, which saves padding.
    The targets have what :class:`DetectionDataset` gives, boxes in pixels of the resized image.

    Args:
        dataset: Makes the data set of a split, such as the class :class:`Coco`, :class:`Yolo` or :class:`Voc` with its
            ``root``.
        batch_size: Images per optimizer step, over all devices and accumulated batches.
        masks: Whether to load masks, which detectors with mask heads are trained on.
        augmentation: Steps between the flip and the batch: ``MultiScaleCrop`` (the papers', and the default),
            ``MultiScale``, ``LargeScaleJitter`` or ``ResizeToFit``, and any of torchvision.transforms.v2.
        flip: Probability of a horizontal flip.
        scale: The long and the short side at most in evaluation.
        keep_empty: Whether to train also on images without any object; the published models were not.
        val_batch_size: Validation images per batch of one device.
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

    Attributes:
        annotations: Annotation file of the validation split, or the folder of its annotations.
        category_ids: Its category for each label.
    """

    collate_train = staticmethod(collate_detection)
    collate_val = staticmethod(collate_detection)

    def __init__(
        self,
        dataset: Callable[[str], DetectionDataset],
        batch_size: int = 16,
        masks: bool = False,
        augmentation: list[v2.Transform] | None = None,
        flip: float = 0.5,
        scale: tuple[int, int] = (1333, 800),
        keep_empty: bool = False,
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
    ):
        splits = Splits(val_fraction, fold, folds, group_by, split_seed)
        own = (batch_size, val_batch_size, workers, repeat, predict, seed, skip_damaged, splits, sampling, mix)
        super().__init__(*own)
        if min(scale) < 1:
            raise InputError(f"data.scale is {list(scale)}: both sides must be at least 1")
        self.synthetic, self.keep_empty = synthetic, keep_empty
        self.train_data, self.val_data = dataset(train_split), dataset(splits.val_split(val_split, train_split))
        self.train_data.masks = masks
        self._scored = self.train_data if splits.active else self.val_data
        self._scored.scored = True
        # For an evaluation alone the annotations of its split are enough.
        known = self.train_data if self.train_data.annotations.exists() else self.val_data
        categories = known.categories
        if synthetic is not None and not self.train_data.root.exists():
            categories = {number: look.name for number, _, look in COCO_LOOKS}
        self.classes, self.category_ids = tuple(categories.values()), list(categories)
        self.palette = bright_palette(len(self.classes))
        self.annotations = self.val_data.annotations
        self.transform = training_transform(augmentation, flip)
        self.resize = ResizeToFit(tuple(scale))

    def preparation(self) -> dict[str, Any]:
        """See :meth:`DataModule.preparation`."""
        own = {"scale": list(self.resize.scale), "category_ids": [int(number) for number in self.category_ids]}
        return {**super().preparation(), **own}

    def use_channels(self, number: int) -> None:
        """See :meth:`DataModule.use_channels`.

        Raises:
            InputError: The images would not be RGB.
        """
        if number not in (1, 3):
            raise InputError(f"model.backbone.in_chans is {number}, but images of detections are RGB: set it to 3 or 1")

    def prepare_data(self) -> None:
        """Write the generated data set if one is wanted and the root does not exist (Lightning: in one process)."""
        if self.synthetic is not None and not self.train_data.root.exists():
            self.train_data.write_synthetic(self.synthetic)
        if self._world_size > 1:
            needed = {"fit": (self.train_data, self.val_data), "validate": (self.val_data,)}
            for data in needed.get(self.trainer.state.fn, ()):
                with contextlib.suppress(InputError):  # which all processes say in setup
                    data.read_index()  # one process parses a large file, and the others find what it has kept

    def setup(self, stage: str | None = None) -> None:
        """Read the annotation files that the stage (fit, validate, predict) needs.

        Raises:
            InputError: Files are missing or wrong, see :class:`DetectionDataset`, or the splits have different classes.
        """
        held_out = self._held_out() if stage in (None, "fit", "validate") and self.splits.active else None
        same = stage == "validate" or self.synthetic is not None
        if stage in (None, "fit"):
            index = self.train_data.index
            self._compare(index.categories)
            if len(index.crowd) and index.crowd.all():
                raise InputError(f"{index.path} has nothing to train on: all {len(index.crowd)} annotations {CROWDS}")
            if held_out is None:
                same |= warn_of_same(self.train_data.annotations, self.val_data.annotations, self._rank)
            counts = np.bincount(index.labels[~index.crowd], minlength=len(self.classes))
            if self.synthetic is None and not counts.all():
                absent = [name for name, count in zip(self.classes, counts) if not count]
                warnings.warn(f"{index.path}: {len(absent)} classes have no object: {some(absent, 8)}", stacklevel=2)
            others = self.mix.parts(self.classes) if self.mix else []
            for other in others:
                other.masks = self.train_data.masks
            parts = [self._usable(self.train_data, held_out), *(self._usable(other) for other in others)]
            self.train_set = self.mixed(parts[0][0], [part for part, _ in parts[1:]], self.transform)
            self.train_groups = np.concatenate([wide for _, wide in parts])
        if stage in (None, "fit", "validate"):
            self._compare(self.val_data.index.categories)
            val = self.val_data if held_out is None else Subset(self.val_data, held_out)
            self.val_set = Transformed(val, self.resize)
            if not same:
                warn_of_shared(parts[0][0], val, self._rank)

    def _usable(self, data: DetectionDataset, left_out: np.ndarray | None = None) -> tuple[Subset, np.ndarray]:
        """The images that are trained on, and which of them are wide."""
        index = data.index
        used = (index.first[1:] > index.first[:-1]) | self.keep_empty
        if left_out is not None:
            used &= ~np.isin(np.arange(len(used)), left_out)
        if not used.any():
            raise InputError(f"{index.path} has no image with an object to train on")
        return Subset(data, used.nonzero()[0].tolist()), (index.sizes[:, 1] > index.sizes[:, 0])[used]

    def _held_out(self) -> np.ndarray:
        """Places of the images of the training split that are validated on; both have one index, which is read once."""
        data = self.train_data
        index = data.index
        self.val_data = copy.copy(data)
        self.val_data.masks = False
        return self.splits.parts(len(index.files), of_objects(data), lambda: index.files, data.root)[1]

    def truth(self) -> dict[str, Any]:
        """What detections are scored by, of the validation split, in COCO's form."""
        return self._scored.truth()

    def listing(self) -> dict[str, Any]:
        """The images and classes alone of :meth:`truth`, for processes that score nothing."""
        kinds = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.classes)]
        self._scored.forget_truth()
        images = [{"id": number} for number in self.val_data.index.image_ids.tolist()]
        return {"images": images, "annotations": [], "categories": kinds}

    def predict_data(self) -> Dataset:
        """The images of ``predict``, resized to the evaluation's scale."""
        return Transformed(_WithIds(super().predict_data(), self.val_data), WithTarget(self.resize))

    def _compare(self, categories: dict[int, str]) -> None:
        """Refuse an annotation file whose classes are not those of the task."""
        own = dict(zip(self.category_ids, self.classes))
        if categories != own:
            other = [f"{number} {name}" for number, name in sorted(categories.items() ^ own.items())]
            raise InputError(
                f"{self.annotations} and {self.train_data.annotations} differ in their categories ({some(other)}): "
                "both splits need the same ids and names"
            )


class _WithIds(Dataset):
    """Images to predict on with an ``image_id``: that of the annotations where these list them all, else counted."""

    def __init__(self, folder: ImageFolder, annotated: DetectionDataset):
        self.folder, self.names = folder, [path.relative_to(folder.root).as_posix() for path in folder.files]
        self.ids = list(range(1, len(self.names) + 1))
        if not annotated.annotations.exists():
            return
        try:
            listed = annotated.image_ids()
        except InputError as error:
            warnings.warn(f"{error}; the images are counted in the results", stacklevel=2)
            return
        known = {Path(name.replace("\\", "/")).name: number for name, number in listed.items()}
        if len(known) == len(listed) and {Path(name).name for name in self.names} <= known.keys():
            self.ids = [known[Path(name).name] for name in self.names]

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.folder[index], "image_id": self.ids[index], "file_name": self.names[index]}


class WithTarget:
    """Resizes an image without annotations and notes its original size."""

    def __init__(self, resize: ResizeToFit):
        self.resize = resize

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """An item of an :class:`ImageFolder` with ``image_id`` and ``file_name`` -> a sample for a batch."""
        target = {key: sample.pop(key) for key in ("image_id", "file_name")}
        target["original_size"] = torch.tensor(sample["image"].shape[-2:])
        return {**self.resize(sample), "target": target}
