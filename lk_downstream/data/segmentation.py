"""Semantic segmentation data sets: their base, and ADE20K and Cityscapes in their official layouts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lk_downstream.archives import Place
from lk_downstream.data import synthetic_layouts
from lk_downstream.data.classes import (
    ADE20K_CLASSES,
    ADE20K_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_PALETTE,
    Palette,
)
from lk_downstream.data.labels import IGNORE_INDEX, OUTSIDE, file_values, ranges
from lk_downstream.data.mask_files import MASK_SUFFIXES, read_mask
from lk_downstream.data.pairing import list_files, only_listed, read_list, refuse_alone
from lk_downstream.data.reading import IMAGE_SUFFIXES, load_image
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError, near_names


class SegmentationDataset(Dataset):
    """Images and masks that lie in two folder trees, paired by their names.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "mask": tv_tensors.Mask uint8 (H, W), "name": str}``;
    the mask holds class indices and 255 where nothing is labelled. Nothing on disk is touched before the first
    ``len()`` or item, and listing decodes no image.

    A subclass sets ``classes``, ``palette`` and ``label_table`` and says where the files lie.

    Args:
        split: ``train`` or ``val``, or the name that the data set itself uses.
        root: Folder of the data set.

    Attributes:
        classes: Names of the classes, in the order of their indices.
        palette: A colour (red, green, blue) for each class.
        ignore_index: 255.
        label_table: uint8, (256,): class index, 255 or 254 (= no such class) for every value of a mask file.
    """

    classes: tuple[str, ...]
    palette: Palette
    label_table: np.ndarray
    ignore_index = IGNORE_INDEX
    channels = 3  # of the images
    value_range: tuple[float, float] | None = None  # of those with more than 8 bits
    splits: Mapping[str, str] = {"train": "train", "val": "val"}  # the usual name -> the data set's own
    tree: str  # the expected files, shown when they are not there
    list_file: Path | None = None  # with the names of the split's images; None: all of its folder
    mask_hint = ""  # what else may be wrong when a mask has values outside the classes

    def __init__(self, split: str, root: str):
        self.root = Place(root).expanduser()
        self.split = self._own_name(split)

    def folders(self) -> tuple[Path, Path]:
        """Folder of the split's images and folder of its masks."""
        raise NotImplementedError

    def image_key(self, name: str) -> str | None:
        """What pairs an image (path below its folder) with a mask, or None for a file that is no image."""
        stem, suffix = os.path.splitext(name)
        return stem if suffix.lower() in IMAGE_SUFFIXES else None

    def mask_key(self, name: str) -> str | None:
        """What pairs a mask (path below its folder) with an image, or None for a file that is no mask."""
        stem, suffix = os.path.splitext(name)
        return stem if suffix.lower() in MASK_SUFFIXES else None

    def pairing_hint(self, images: Path, masks: Path) -> str:
        """What would pair the files of two folders that differ in their names, or an empty string."""
        return ""

    @property
    def source(self) -> Path:
        """What decides which images belong to the split: its list of names, or else the folder of its images."""
        return self.list_file or self.folders()[0]

    def prepare(self) -> None:
        """Find out and keep what takes long, in one of many processes, before all of them need it; here nothing does.

        Raises:
            InputError: As whatever needs it.
        """

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in this data set's layout to ``root``."""
        raise InputError(f"{type(self).__name__} has no generated data: remove the option synthetic")

    @property
    def label_values(self) -> np.ndarray:
        """The value of a mask file for each class index, uint8, (256,): what a prediction is written with."""
        return file_values(self.label_table, len(self.classes))

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """Name, image and mask of every sample, in the order of the names.

        Raises:
            InputError: A folder is missing or empty, or an image or a mask is alone.
        """
        folders = self.folders()
        for folder in folders:
            if not folder.is_dir():
                raise InputError(self._missing(folder))
        images = list_files(folders[0], self.image_key)
        masks = list_files(folders[1], self.mask_key)
        if not images:
            raise InputError(f"no image in {folders[0]}; expected under {self.root}:\n{self.tree}")
        if self.list_file:
            names = read_list(self.list_file, self.image_key)
            images = only_listed(images, names, self.list_file, folders[0])
            masks = {name: masks[name] for name in names if name in masks}
        hint = self.pairing_hint(*folders) if images.keys() != masks.keys() else ""
        refuse_alone(images, masks, "image", "mask", folders[1], hint)
        refuse_alone(masks, images, "mask", "image", folders[0], hint)
        return [(key, images[key], masks[key]) for key in sorted(images)]

    def image_path(self, index: int) -> str:
        """The file of an image."""
        return self.samples[index][1]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        name, file, mask = self.samples[index]
        image, labels = self.load_image(file), self.read_labels(mask)
        if image.shape[-2:] != labels.shape:
            (height, width), (mask_height, mask_width) = image.shape[-2:], labels.shape
            raise InputError(
                f"{file} is {width} x {height} but its mask {mask} is {mask_width} x {mask_height}: "
                "they must have the same size"
            )
        return {"image": image, "mask": tv_tensors.Mask(labels), "name": name}

    def load_image(self, path: str) -> torch.Tensor:
        """An image of ``samples``, uint8 (3, H, W)."""
        return load_image(path, channels=self.channels, value_range=self.value_range)

    def read_values(self, path: str) -> torch.Tensor:
        """The mask file's values, which ``label_table`` makes class indices of, uint8, (H, W)."""
        return read_mask(path)

    def read_labels(self, path: str) -> torch.Tensor:
        """The mask file as class indices and 255, uint8, (H, W).

        Raises:
            InputError: The file cannot be read, or holds a value that belongs to no class.
        """
        raw = self.read_values(path).numpy()
        # bytes.translate is the fastest look-up of bytes at hand: three times as fast as numpy's take.
        labels = np.frombuffer(bytearray(raw.tobytes().translate(self.label_table.tobytes())), np.uint8)
        if (labels == OUTSIDE).any():
            raise InputError(self._outside(path, np.unique(raw)))
        return torch.from_numpy(labels.reshape(raw.shape))

    def unexpected_values(self, values: np.ndarray) -> list[int]:
        """Those of the ``values`` found in mask files that belong to no class and are not ignored."""
        return [int(value) for value in values if self.label_table[value] == OUTSIDE]

    def doubt(self, values: np.ndarray) -> str:
        """What may be wrong although no value is, for all ``values`` found in mask files; mostly an empty string."""
        if len(self.classes) > 1 and set(values.tolist()) == {0, 255} and self.label_table[255] == IGNORE_INDEX:
            return (
                "the masks hold 0 and 255 alone, and 255 is unlabelled: "
                "if it is a class, set label_map {255: 1} (or binary true)"
            )
        return ""

    def _missing(self, folder: Path) -> str:
        return f"there is no folder {folder}; expected under {self.root}:\n{self.tree}"

    def _outside(self, path: str | os.PathLike, values: np.ndarray) -> str:
        allowed, wrong = ranges(np.flatnonzero(self.label_table != OUTSIDE)), ranges(self.unexpected_values(values))
        return (
            f"{path} has the label values {wrong} outside the {len(self.classes)} classes "
            f"(it holds {ranges(values)}; allowed are {allowed}){self._value_hint(values)}"
        )

    def _value_hint(self, values: np.ndarray) -> str:
        return self.mask_hint

    def _own_name(self, split: str) -> str:
        known = dict.fromkeys([*self.splits, *self.splits.values()])
        if split not in known:
            hint = near_names(split, known) or f"; it has {', '.join(known)}"
            if split == "test":
                hint += ". Its test images come without masks: predict them (predict ... --data.predict FOLDER)"
            raise InputError(f"{type(self).__name__} has no split {split!r}{hint}")
        return self.splits.get(split, split)


class ADE20K(SegmentationDataset):
    """ADE20K scene parsing, 150 classes, as the benchmark distributes it (``ADEChallengeData2016``).

    In the files 0 is "other" and 1 to 150 are the classes; here 0 becomes 255 and k becomes k - 1.

    Args:
        split: ``train`` (or ``training``) or ``val`` (or ``validation``).
        root: The folder ``ADEChallengeData2016``.
    """

    classes, palette = ADE20K_CLASSES, ADE20K_PALETTE
    label_table = np.array([IGNORE_INDEX, *range(150), *[OUTSIDE] * 105], dtype=np.uint8)
    splits = {"train": "training", "val": "validation"}
    tree = """images/training/ADE_train_00000001.jpg ...
images/validation/ADE_val_00000001.jpg ...
annotations/training/ADE_train_00000001.png ...
annotations/validation/ADE_val_00000001.png ...
(ADEChallengeData2016.zip of the MIT scene parsing benchmark, unpacked)"""
    mask_hint = ": these are not the masks of the scene parsing benchmark (ADEChallengeData2016)"

    def __init__(self, split: str, root: str = "data/ADEChallengeData2016"):
        super().__init__(split, root)

    def folders(self) -> tuple[Path, Path]:
        """``images/<split>`` and ``annotations/<split>``."""
        return self.root / "images" / self.split, self.root / "annotations" / self.split

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in ADE20K's layout; eight of the 150 classes occur in it."""
        synthetic_layouts.write_ade20k(self.root, options)


class Cityscapes(SegmentationDataset):
    """Cityscapes, the 19 evaluated classes, read from ``*_labelIds.png`` as they come, without any conversion.

    Args:
        split: ``train``, ``val`` or ``test`` (whose public masks are empty).
        root: Folder with ``leftImg8bit`` and ``gtFine``.
    """

    classes, palette = CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
    label_table = np.full(256, OUTSIDE, dtype=np.uint8)
    label_table[:34] = IGNORE_INDEX
    label_table[255] = IGNORE_INDEX  # the license plate has the id -1, which is 255 in a file of bytes
    label_table[list(CITYSCAPES_LABEL_IDS)] = range(19)
    splits = {"train": "train", "val": "val", "test": "test"}
    tree = """leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png ...
leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png ...
gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png ...
gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png ...
(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com, unpacked)"""
    mask_hint = ": these are not *_gtFine_labelIds.png as Cityscapes distributes them"

    def __init__(self, split: str, root: str = "data/cityscapes"):
        super().__init__(split, root)

    def folders(self) -> tuple[Path, Path]:
        """``leftImg8bit/<split>`` and ``gtFine/<split>``."""
        return self.root / "leftImg8bit" / self.split, self.root / "gtFine" / self.split

    def image_key(self, name: str) -> str | None:
        """``<city>/<city>_<sequence>_<frame>`` of an image."""
        return name.removesuffix("_leftImg8bit.png") if name.endswith("_leftImg8bit.png") else None

    def mask_key(self, name: str) -> str | None:
        """``<city>/<city>_<sequence>_<frame>`` of a mask; gtFine holds other files beside the masks."""
        return name.removesuffix("_gtFine_labelIds.png") if name.endswith("_gtFine_labelIds.png") else None

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in Cityscapes' layout; eight of the 19 classes occur in it."""
        synthetic_layouts.write_cityscapes(self.root, options)
