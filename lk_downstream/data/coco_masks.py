"""COCO's panoptic annotations, and its instances drawn as masks of classes, for semantic segmentation."""

from __future__ import annotations

import os
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lk_downstream import kept_arrays, trust
from lk_downstream.data.classes import default_palette
from lk_downstream.data.coco import Coco
from lk_downstream.data.coco_file import categories
from lk_downstream.data.coco_kept import NO_STAMP, kept_of
from lk_downstream.data.coco_lists import read_categories
from lk_downstream.data.labels import IGNORE_INDEX, label_table
from lk_downstream.data.listing import Paths
from lk_downstream.data.mask_files import read_codes
from lk_downstream.data.pairing import list_files, placed
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.errors import InputError, did_you_mean, some


class CocoInstances(SegmentationDataset):
    """Objects of an annotation file in COCO's format, drawn as masks of their classes.

    Where objects overlap, the smaller one lies on top; crowds are unlabelled (255), below all objects. The classes are
    ``background`` and those of the file, in the order of their ids.

    Args:
        split: ``train`` or ``val``, or whatever ``{split}`` is to be.
        root: Folder of the data set.
        images: Folder of the images, below ``root``.
        annotations: Annotation file, below ``root``.
        background: Name of the class 0, of what no object covers; None: such pixels are unlabelled.
    """

    def __init__(
        self,
        split: str,
        root: str = "data/coco",
        images: str = "{split}2017",
        annotations: str = "annotations/instances_{split}2017.json",
        background: str | None = "background",
    ):
        super().__init__(split, root)
        images, annotations = placed("images", images, split), placed("annotations", annotations, split)
        self.coco = Coco(split, str(self.root), images, annotations, masks=True)
        names = list(self.coco.categories.values())
        if background in names:
            raise InputError(f"{self.coco.annotations} has a class {background!r}: set background to another name")
        self.classes = tuple(names if background is None else [background, *names])
        self.palette, self.label_table = default_palette(len(self.classes)), label_table(len(self.classes))
        self.background, self.first = (IGNORE_INDEX, 0) if background is None else (0, 1)

    @property
    def source(self) -> Path:
        """The annotation file."""
        return self.coco.annotations

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of an image in the annotation file by what stands for its mask in ``samples``."""
        ids = self.coco.index.image_ids
        return {f"{self.coco.annotations}, image {image_id}": number for number, image_id in enumerate(ids)}

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """Name and file of every image, and what stands for its mask.

        Raises:
            InputError: See :class:`Coco`.
        """
        files = self.coco.index.files
        stems, paths = [os.path.splitext(name)[0] for name in files], [str(self.coco.images / name) for name in files]
        return list(zip(stems, paths, self.numbers))

    def prepare(self) -> None:
        """See :meth:`SegmentationDataset.prepare`."""
        self.coco.read_index()

    def read_values(self, path: str) -> torch.Tensor:
        """The class indices of an image's objects, uint8, (H, W)."""
        index, number = self.coco.index, self.numbers[path]
        objects = slice(index.first[number], index.first[number + 1])
        masks = index.masks(number).bool()
        values = np.where(index.crowd[objects], IGNORE_INDEX, index.labels[objects] + self.first)
        areas = np.where(index.crowd[objects], np.inf, masks.sum((1, 2)).numpy())
        labels = torch.full(tuple(index.sizes[number].tolist()), self.background, dtype=torch.uint8)
        for at in np.argsort(-areas, kind="stable"):
            labels[masks[at]] = int(values[at])
        return labels

    def _own_name(self, split: str) -> str:
        return split


class Segments(NamedTuple):
    """What a panoptic annotation file lists: of image i the segments ``first[i]`` to ``first[i + 1] - 1``.

    Attributes:
        images: Names of the images, see :class:`Paths`.
        image_ends: Likewise.
        masks: Names of their masks, likewise.
        mask_ends: Likewise.
        first: int64 (N + 1,).
        ids: int32 (S,), of the segments, rising within an image.
        indices: uint8 (S,), their class indices.
        stamp: Of the file, see :func:`kept_of`.
    """

    images: np.ndarray
    image_ends: np.ndarray
    masks: np.ndarray
    mask_ends: np.ndarray
    first: np.ndarray
    ids: np.ndarray
    indices: np.ndarray
    stamp: np.ndarray

    def __reduce__(self) -> tuple:
        return _received, tuple(map(kept_arrays.sendable, self))

    def files(self) -> tuple[list[str], list[str]]:
        """Names of the images, and of their masks."""
        both = Paths(self.images, self.image_ends), Paths(self.masks, self.mask_ends)
        images, masks = ([name.decode("utf-8", "surrogatepass") for name in names] for names in both)
        return images, masks


def _received(*parts: np.ndarray | kept_arrays.Mapped) -> Segments:
    return Segments(*map(kept_arrays.received, parts))


class CocoPanoptic(SegmentationDataset):
    """COCO's panoptic annotations: a JSON file, and an image of segment ids as colours for each image beside it.

    Things and stuff are classes alike, in the order of their ids; crowds, and what is in no segment, are unlabelled.

    Args:
        split: ``train`` or ``val``, or whatever ``{split}`` is to be.
        root: Folder of the data set.
        images: Folder of the images, below ``root``.
        annotations: Annotation file, below ``root``.
        masks: Folder of the images of ids, below ``root`` (default: of the annotation file's name).
    """

    def __init__(
        self,
        split: str,
        root: str = "data/coco",
        images: str = "{split}2017",
        annotations: str = "annotations/panoptic_{split}2017.json",
        masks: str | None = None,
    ):
        super().__init__(split, root)
        self.images = self.root / placed("images", images, split)
        self.annotations = self.root / placed("annotations", annotations, split)
        self.masks = self.root / placed("masks", masks, split) if masks else self.annotations.with_suffix("")
        self.categories = read_categories(self.annotations)
        self.classes = tuple(self.categories.values())
        self.palette, self.label_table = default_palette(len(self.classes)), label_table(len(self.classes))

    def folders(self) -> tuple[Path, Path]:
        """Folder of the images, and folder of the images of ids."""
        return self.images, self.masks

    @property
    def source(self) -> Path:
        """The annotation file."""
        return self.annotations

    @cached_property
    def segments(self) -> Segments:
        """What the file lists, which of a large file is kept, and parsed once.

        Raises:
            InputError: The file is missing or not COCO's panoptic format.
        """
        kept = kept_of(self.annotations, "panoptic", "", Segments, self._parse)
        return self._parse() if kept is None else kept

    def prepare(self) -> None:
        """See :meth:`SegmentationDataset.prepare`."""
        len(self.segments.first)

    def _parse(self) -> Segments:
        try:
            content = trust.read_json(self.annotations)
            labels = {number: label for label, number in enumerate(categories(self.annotations, content["categories"]))}
            files = {row["id"]: str(row["file_name"]) for row in content["images"]}
            names, masks, first, ids, indices = [], [], [0], [], []
            for row in content["annotations"]:
                segments = sorted(((int(part["id"]), part) for part in row["segments_info"]), key=itemgetter(0))
                names.append(files[row["image_id"]].replace("\\", "/"))
                masks.append(str(row["file_name"]))
                ids += [number for number, _ in segments]
                for _, part in segments:
                    indices.append(IGNORE_INDEX if part.get("iscrowd") else labels[part["category_id"]])
                first.append(len(ids))
            packed = [Paths.of(name.encode("utf-8", "surrogatepass") for name in part) for part in (names, masks)]
            parts = [part for paths in packed for part in (paths.names, paths.ends)]
            numbers = np.array(first), np.array(ids, dtype=np.int32), np.array(indices, dtype=np.uint8)
            return Segments(*parts, *numbers, NO_STAMP)
        except OSError as error:
            raise InputError(f"cannot read {self.annotations}: {error.strerror or error}") from error
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            hint = did_you_mean(["CocoInstances"]) if "segments_info" in str(error) else ""
            raise InputError(
                f"{self.annotations} is no panoptic annotation file of COCO ({type(error).__name__}: {error}){hint}"
            ) from error

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of an image in the annotation file by the path of its mask."""
        return {mask: number for number, (_, _, mask) in enumerate(self.samples)}

    @cached_property
    def samples(self) -> list[tuple[str, str, str]]:
        """Name, file and mask of every image, in the order of the file.

        Raises:
            InputError: See ``segments``; or files are missing.
        """
        found, listed = [], self.segments.files()
        for names, folder in zip(listed, self.folders()):
            if not folder.is_dir():
                raise InputError(f"there is no folder {folder}, of the files that {self.annotations} lists: unpack it")
            there = list_files(folder, str)
            if lacking := [name for name in names if name not in there]:
                raise InputError(f"{self.annotations} lists {some(lacking, 2)}, which {folder} lacks: add the files")
            found.append([there[name] for name in names])
        return [(os.path.splitext(name)[0], *paths) for name, *paths in zip(listed[0], *found)]

    def read_values(self, path: str) -> torch.Tensor:
        """The class indices of an image's segments, uint8, (H, W).

        Raises:
            InputError: The mask cannot be read, or has a segment that the annotation file does not list.
        """
        first, ids, indices = self.segments.first, self.segments.ids, self.segments.indices
        part = slice(first[self.numbers[path]], first[self.numbers[path] + 1])
        own, values = np.append(ids[part], np.int32(2**30)), np.append(indices[part], np.uint8(IGNORE_INDEX))
        codes = read_codes(path)
        places = np.searchsorted(own, codes)
        labels, unknown = values[places], own[places] != codes
        if odd := np.unique(codes[unknown & (codes != 0)]).tolist():
            raise InputError(f"{path} has segments that {self.annotations} does not list (ids {some(odd)})")
        labels[codes == 0] = IGNORE_INDEX
        return torch.from_numpy(labels)

    def _own_name(self, split: str) -> str:
        return split
