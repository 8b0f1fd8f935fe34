"""Data sets of images with one label: a folder for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo
from torch.utils.data import Dataset

from lk_downstream import archives
from lk_downstream.archives import Place
from lk_downstream.data import synthetic_layouts
from lk_downstream.data.imagenet_labels import read_labels
from lk_downstream.data.listing import images_in
from lk_downstream.data.pairing import placed, same_letters
from lk_downstream.data.reading import find_images, load_image
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError, near_names


class ClassFolder(Dataset):
    """Anyone's images: ``<split>/CLASS/NAME.jpg``, also in folders below that of the class.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "label": int, "name": str}``; the name is the path
    below the split's folder, and the label the place of the class among the sorted names of the class folders. No
    image is decoded before its item is asked for.

    Args:
        split: Name of the split.
        root: Folder of the data set.
        folder: Folder of a split below ``root``; ``{split}`` stands for the split.

    Attributes:
        classes: Names of the classes, in the order of their labels.
        class_folders: Names of their folders, in the same order.
    """

    orientation = True  # whether images are turned as their EXIF data say
    channels = 3  # of the images
    value_range: tuple[float, float] | None = None  # of those with more than 8 bits
    multilabel = False  # whether items have ``labels``, a vector of 0 and 1
    flat_hint = ", or give their labels in a table (ClassTable)"
    known: tuple[str, ...] | None = None  # classes that are given, in the order of their labels

    def __init__(self, split: str, root: str, folder: str = "{split}"):
        self.root, self.split = Place(root).expanduser(), split
        self.folder = self.root / placed("folder", folder, split)

    @property
    def source(self) -> Path:
        """What decides which images belong to the split."""
        return self.folder

    @cached_property
    def found(self) -> tuple[str, ...]:
        """Names of the class folders that there are, sorted.

        Raises:
            InputError: There is no folder of this split, or no class folder in it.
        """
        if not self.folder.is_dir():
            there = sorted(item.name for item in self.root.iterdir() if item.is_dir()) if self.root.is_dir() else []
            hint = near_names(self.split, there) or (f"; {self.root} has {', '.join(there[:5])}" if there else "")
            raise InputError(f"there is no folder {self.folder}, expected to hold CLASS/NAME.jpg{hint}")
        with archives.scandir(self.folder) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise InputError(
                f"{self.folder} holds no class folders: sort its images into one folder for each class, such as "
                f"{self.folder / 'CLASS' / 'NAME.jpg'}{self.flat_hint}"
            )
        self.check(folders)
        return tuple(folders)

    def check(self, folders: Sequence[str]) -> None:
        """Refuse class folders that cannot be those of this data set."""

    @property
    def class_folders(self) -> tuple[str, ...]:
        """Names of the class folders in the order of the labels."""
        return self.known or self.found

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return self.class_folders

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in this data set's layout to ``root``."""
        raise InputError(f"{type(self).__name__} has no generated data: remove the option synthetic")

    @cached_property
    def samples(self) -> tuple[Sequence[bytes], np.ndarray]:
        """Path below the split's folder (bytes) and label (int32) of every image, in the order of the paths.

        Rows of bytes and numbers and not a list of pairs: millions of Python objects would be copied into every loader
        process.

        Raises:
            InputError: A class folder is unknown, cannot be listed, or holds no image.
        """
        labels = {same_letters(name): label for label, name in enumerate(self.class_folders)}
        paths, counts = images_in(self.folder, self.found)
        if not counts.all() and not self.known:
            raise InputError(
                f"{self.folder / self.found[counts.argmin()]} holds no image: add images of this class, or remove "
                "the folder"
            )
        found = np.array([labels[same_letters(name)] for name in self.found], dtype=np.int32)
        return paths, np.repeat(found, counts)

    def image_path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(self.samples[0][index])

    def __len__(self) -> int:
        return len(self.samples[1])

    def __getitem__(self, index: int) -> dict:
        name, label = os.fsdecode(self.samples[0][index]), self.samples[1][index]
        image = load_image(self.image_path(index), self.orientation, None, self.channels, self.value_range)
        return {"image": image, "label": label if self.multilabel else int(label), "name": name}


class ImageNet(ClassFolder):
    """ImageNet-1K (ILSVRC 2012): ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, 1000 classes.

    The order of the classes is that of the sorted WordNet ids, whichever folders there are. Images are not turned by
    their EXIF data, as in the evaluation of the published models.

    Args:
        split: ``train`` or ``val``, or any other folder of such class folders.
        root: Folder of the data set.
        folder: Folder of a split below ``root``; ``{split}`` stands for the split.
        complete: Refuse a split that lacks some of the classes.
        labels: A file below ``root`` with the labels of a split whose images lie in one folder, without class folders
            (Kaggle's ``LOC_val_solution.csv``, ``val.txt``, or the authors' ground truth): see :func:`read_labels`.
        synsets: A file below ``root`` with a WordNet id and the authors' number a line, for their ground truth.
    """

    orientation = False
    flat_hint = ", or set labels to the file of their labels, such as LOC_val_solution.csv"
    subset = "imagenet-1k"

    def __init__(
        self,
        split: str,
        root: str = "data/imagenet",
        folder: str = "{split}",
        complete: bool = True,
        labels: str | None = None,
        synsets: str | None = None,
    ):
        super().__init__(split, root, folder)
        self.complete = complete
        self.labels, self.synsets = (self.root / name if name else None for name in (labels, synsets))
        info = ImageNetInfo(self.subset)
        self.wnids = tuple(info.label_names())
        self.names = distinct([text.split(", ")[0] for text in info.label_descriptions()], self.wnids)

    def check(self, folders: Sequence[str]) -> None:
        """Refuse unknown classes and, if ``complete``, fewer than there are."""
        known = set(self.wnids)
        if unknown := [name for name in folders if name not in known]:
            raise InputError(
                f"{self.folder / unknown[0]} is no class of {type(self).__name__} ({len(unknown)} of {len(folders)} "
                "folders are none): remove it, or read the tree with ClassFolder"
            )
        if self.complete and len(folders) < len(known):
            lacking = sorted(known - set(folders))
            raise InputError(
                f"{self.folder} lacks {len(lacking)} of {len(known)} classes, such as {lacking[0]}: complete it, or "
                "set data.dataset.complete to false"
            )

    @cached_property
    def flat(self) -> list[tuple[bytes, str]] | None:
        """Path below the split's folder, and WordNet id, of every image where there are no class folders.

        Raises:
            InputError: See :func:`read_labels`.
        """
        if self.labels is None or not self.folder.is_dir():
            return None
        with archives.scandir(self.folder) as entries:
            if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
                return None
        paths = sorted(path.removeprefix(b"./") for path in find_images(self.folder))
        names = [os.fsdecode(path) for path in paths]
        return list(zip(paths, read_labels(self.labels, names, self.wnids, self.synsets)))

    @cached_property
    def found(self) -> tuple[str, ...]:
        """WordNet ids of the classes that there are, sorted; see :attr:`ClassFolder.found`."""
        if self.flat is None:
            return super().found
        folders = tuple(sorted({wnid for _, wnid in self.flat}))
        self.check(folders)
        return folders

    @cached_property
    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Path and label of every image, see :attr:`ClassFolder.samples`."""
        if self.flat is None:
            return super().samples
        assert self.found  # checked
        labels = {wnid: label for label, wnid in enumerate(self.wnids)}
        paths, wnids = zip(*self.flat)
        return np.array(paths, dtype=np.bytes_), np.array([labels[wnid] for wnid in wnids], dtype="i4")

    @property
    def class_folders(self) -> tuple[str, ...]:
        """WordNet ids of the classes in the order of the labels."""
        return self.wnids

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels, the first of WordNet's."""
        return self.names

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in ImageNet's layout; six of the classes occur in it."""
        synthetic_layouts.write_imagenet(self.root, options)


class ImageNet22K(ImageNet):
    """ImageNet-22K (fall 2011): ``<wnid>/*.JPEG``, 21841 classes, no validation split.

    Args:
        split: ``train``.
        root: Folder of the data set.
        folder: Folder of a split below ``root``; ``{split}`` stands for the split.
        complete: Refuse a tree that lacks some of the classes.
    """

    subset = "imagenet-22k"

    def __init__(self, split: str, root: str = "data/imagenet22k", folder: str = ".", complete: bool = True):
        super().__init__(split, root, folder, complete)


def distinct(names: Sequence[str], marks: Sequence[str]) -> tuple[str, ...]:
    """The names, those that occur twice with their marks: ``crane (n02012849)``."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({mark})" for name, mark in zip(names, marks))
