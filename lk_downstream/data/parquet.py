"""Images within Parquet files, as Hugging Face's data sets have them, with labels or masks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lk_downstream.data.class_table import LABEL_COLUMNS
from lk_downstream.data.classification import ClassFolder, distinct
from lk_downstream.data.labels import class_names
from lk_downstream.data.listing import Paths
from lk_downstream.data.mask_files import read_mask
from lk_downstream.data.reading import load_image
from lk_downstream.data.segmentation_folder import SegmentationFolder
from lk_downstream.data.shards import PATTERNS, Shards, column, find_shards, image_column, kind_of, noted_images
from lk_downstream.errors import InputError, some

MASK_COLUMNS = ("annotation", "mask", "label", "segmentation", "annotations", "segmentation_mask", "labels")


class ClassParquet(ClassFolder):
    """Anyone's images and labels in Parquet files, such as Hugging Face's ``imagenet-1k`` as it is downloaded.

    The files are ``data/{split}-00000-of-00123.parquet`` below the root, or ``{split}.parquet``; ``val`` may be called
    ``validation``. The column of images has their files, or ``bytes`` and ``path``. The classes are those that
    ``datasets`` has noted (``ClassLabel``), or else the labels that occur, sorted. An item is that of
    :class:`ClassFolder`, and that of :class:`ClassTable` where images have lists of labels.

    Args:
        split: Name of the split.
        root: Folder of the data set, or a Parquet file.
        files: Pattern of the files' paths below ``root``; ``{split}`` stands for the split, ``*`` for anything.
        image: The column of images (default: one that is noted as such, or image, img, picture, jpg or png).
        label: The column of labels (default: one that is noted as such, or label, labels, class or classes).
        classes: Names of the classes in the order of the labels, or a text file with one a line.
        orientation: Turn images as their EXIF data say; false: as in the evaluation of ImageNet's published models.
    """

    def __init__(
        self,
        split: str,
        root: str,
        files: str | None = None,
        image: str | None = None,
        label: str | None = None,
        classes: list[str] | str | None = None,
        orientation: bool = True,
    ):
        super().__init__(split, root, ".")
        self.files, self.image, self.label, self.orientation = files, image, label, orientation
        self.given = None if classes is None else class_names(classes, self.root)

    @cached_property
    def shards(self) -> Shards:
        """The files of the split.

        Raises:
            InputError: There are none, or they cannot be read.
        """
        return Shards(find_shards(self.root, self.split, self.files))

    @cached_property
    def source(self) -> Path:
        """The first of the files; where it should be, if there is none."""
        try:
            return self.shards.paths[0]
        except InputError:
            return self.root / (self.files or PATTERNS[0]).replace("{split}", self.split)

    @cached_property
    def columns(self) -> tuple[str, str]:
        """Names of the columns of images and labels.

        Raises:
            InputError: There is none.
        """
        noted = [name for name, feature in self.shards.features.items() if _names(feature)]
        image = image_column(self.shards, self.image)
        return image, column(self.shards, self.label, [*noted, *LABEL_COLUMNS], "label")

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """Names of the classes that the labels count; None: the labels are the names."""
        noted = _names(self.shards.features.get(self.columns[1]))
        return self.given or (distinct(noted, [str(number) for number in range(len(noted))]) if noted else None)

    @cached_property
    def multilabel(self) -> bool:
        """Whether the column of labels has lists of them."""
        return "list" in str(self.shards.schema.field(self.columns[1]).type)

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels of all images one after the other, and the row of each.

        Raises:
            InputError: One is missing.
        """
        found = self.shards.column(self.columns[1])
        rows = np.arange(len(found))
        if self.multilabel:
            counts = np.array([len(own) if own else 0 for own in found.to_pylist()], dtype=np.int64)
            rows, found = np.repeat(rows, counts), found.combine_chunks().flatten()
        if found.null_count:
            row = int(rows[np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0]])
            raise InputError(f"{self.shards.path(row)} has no label in the column {self.columns[1]}: add or remove it")
        return np.asarray(found.to_numpy(zero_copy_only=False) if self.multilabel else found.to_numpy()), rows

    @cached_property
    def found(self) -> tuple[str, ...]:
        """Names of the classes: those that are noted or given, or else the labels that occur, sorted."""
        return self.names or tuple(str(label) for label in np.unique(self.labels[0]).tolist())

    @cached_property
    def samples(self) -> tuple[Sequence[bytes], np.ndarray]:
        """Name (bytes) and label of every image, in the order of the rows; labels as :attr:`ClassTable.samples`.

        Raises:
            InputError: A label is no class.
        """
        labels, rows = self.labels
        kinds, first, places = np.unique(labels, return_index=True, return_inverse=True)
        numbers = {name: number for number, name in enumerate(self.class_folders)}
        names = [self._name(kind, row) for kind, row in zip(kinds.tolist(), rows[first].tolist())]
        if unknown := next((name for name in names if name not in numbers), None):
            raise InputError(f"{self.source} has the class {unknown}, which is none of {some(self.class_folders)}")
        found = np.array([numbers[name] for name in names], dtype=np.int32)[places.ravel()]
        if self.multilabel:
            matrix = np.zeros((len(self.shards), len(numbers)), np.uint8)
            matrix[rows, found] = 1
            found = matrix
        return Paths.of(name.encode("utf-8", "surrogateescape") for name in self.shards.names(self.columns[0])), found

    def _name(self, label: Any, row: int) -> str:
        """The name of a label, which may be a number of the names."""
        if self.names is None or label in self.names:
            return str(label)
        if not isinstance(label, int) or not 0 <= label < len(self.names):
            raise InputError(
                f"{self.shards.path(row)} has the label {label!r:.60}, but there are {len(self.names)} classes, "
                "counted from 0: set classes"
            )
        return self.names[label]

    def image_path(self, index: int) -> Path:
        """The file of an image, and its row there."""
        return self.shards.path(index)

    def __getitem__(self, index: int) -> dict:
        names, labels = self.samples
        data = self.shards.image(index, self.columns[0])
        image = load_image(self.image_path(index), self.orientation, data, self.channels, self.value_range)
        name = names[index].decode("utf-8", "surrogateescape")
        if self.multilabel:
            return {"image": image, "labels": torch.from_numpy(labels[index]).float(), "name": name}
        return {"image": image, "label": int(labels[index]), "name": name}


class SegmentationParquet(SegmentationFolder):
    """Anyone's images and masks in Parquet files, see :class:`ClassParquet` for the files.

    Masks are images of class numbers, or of colours, whose values mean what :class:`SegmentationFolder` says.

    Args:
        split: Name of the split.
        root: Folder of the data set, or a Parquet file.
        classes: Names of the classes, or a text file with one name a line (default: ``classes.txt`` in ``root``).
        files: Pattern of the files' paths below ``root``; ``{split}`` stands for the split, ``*`` for anything.
        image: The column of images (default: the first that is noted as such, or image, img, picture, jpg or png).
        annotation: The column of masks (default: the second that is noted as such, or annotation, mask, label ...).
        ignore_index: The value of unlabelled pixels in the masks.
        reduce_zero_label: The masks count classes from 1, and 0 is unlabelled: 0 -> 255, k -> k - 1.
        label_map: Replaces values of the masks, such as ``{7: 0, 8: 1, 3: 255}``; 255 leaves a value unlabelled.
        binary: The masks are 0 and 255 (or 0 and 1) for two classes, ``background`` and ``foreground`` if unnamed.
        palette: A colour for each class (default: distinct colours).
        mask_colours: The masks are colours, see :class:`SegmentationFolder`.
    """

    def __init__(
        self,
        split: str,
        root: str,
        classes: list[str] | str | None = None,
        files: str | None = None,
        image: str | None = None,
        annotation: str | None = None,
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        label_map: dict[int, int] | None = None,
        binary: bool = False,
        palette: list[tuple[int, int, int]] | None = None,
        mask_colours: bool | str | list[tuple[int, int, int]] = False,
    ):
        self.place = Path(root).expanduser()
        folder = self.place.parent if self.place.is_file() else self.place
        values = {"ignore_index": ignore_index, "reduce_zero_label": reduce_zero_label, "label_map": label_map}
        colours = {"palette": palette, "mask_colours": mask_colours}
        super().__init__(split, str(folder), classes, binary=binary, **values, **colours)
        self.files, self.image, self.annotation = files, image, annotation

    @cached_property
    def shards(self) -> Shards:
        """See :attr:`ClassParquet.shards`."""
        return Shards(find_shards(self.place, self.split, self.files))

    @property
    def source(self) -> Path:
        """The first of the files."""
        return self.shards.paths[0]

    @cached_property
    def columns(self) -> tuple[str, str]:
        """Names of the columns of images and masks.

        Raises:
            InputError: There is none.
        """
        noted, image = noted_images(self.shards), image_column(self.shards, self.image)
        others = [name for name in (*noted, *MASK_COLUMNS) if name != image]
        return image, column(self.shards, self.annotation, others, "annotation")

    @cached_property
    def rows(self) -> dict[str, int]:
        """Number of a row by what stands for its image and its mask in ``samples``."""
        return {str(self.shards.path(row)): row for row in range(len(self.shards))}

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """Name of every sample, and what stands for its image and its mask: the file and the row."""
        names = self.shards.names(self.columns[0])
        return [(name.rpartition(".")[0] or name, place, place) for name, place in zip(names, self.rows)]

    def image_path(self, index: int) -> str:
        """The file of an image, and its row there."""
        return self.samples[index][1]

    def load_image(self, path: str) -> torch.Tensor:
        """The image of a row, uint8 (3, H, W)."""
        data = self.shards.image(self.rows[path], self.columns[0])
        return load_image(path, data=data, channels=self.channels, value_range=self.value_range)

    def read_values(self, path: str) -> torch.Tensor:
        """The values of the mask of a row, uint8 (H, W)."""
        return read_mask(path, self.colours, self.shards.image(self.rows[path], self.columns[1]))


def _names(feature: Any) -> list[str]:
    """The names that a feature's numbers stand for, also within a list."""
    if isinstance(feature, list) and feature:
        return _names(feature[0])
    if kind_of(feature) in ("Sequence", "List", "LargeList"):
        return _names(feature.get("feature"))
    names = feature.get("names") if kind_of(feature) == "ClassLabel" else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []
