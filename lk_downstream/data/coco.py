"""COCO, and any data set with an annotation file in COCO's format."""

from __future__ import annotations

import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lk_downstream.data import synthetic_layouts
from lk_downstream.data.classes import COCO_CLASSES, COCO_GAPS, Palette, bright_palette
from lk_downstream.data.coco_index import CocoIndex, read_categories, read_index
from lk_downstream.data.reading import read_picture
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError, some


class Coco(Dataset):
    """Pictures with boxes and, if wanted, masks of their objects.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "target": {...}, "name": str}``; the target has
    ``boxes`` (tv_tensors.BoundingBoxes float32 (G, 4), x1, y1, x2, y2), ``labels`` int64 (G,), ``iscrowd`` bool (G,),
    ``masks`` (tv_tensors.Mask uint8 (G, H, W)) if wanted, ``image_id`` and ``original_size`` int64 (2,).

    The layout is the official one, ``{train,val}2017/*.jpg`` and ``annotations/instances_{train,val}2017.json``; for
    another one give ``images`` and ``annotations``, in which ``{split}`` stands for the split. The classes are those of
    the annotation file, in the order of their ids.

    Args:
        split: ``train`` or ``val``, or whatever ``{split}`` is to be.
        root: Folder of the data set.
        images: Folder of the pictures, below ``root``.
        annotations: Annotation file, below ``root``.
        masks: Whether items have masks.

    Attributes:
        note: What was mended in the annotation file or left out, from the first use of ``index`` on.
    """

    def __init__(
        self,
        split: str,
        root: str = "data/coco",
        images: str = "{split}2017",
        annotations: str = "annotations/instances_{split}2017.json",
        masks: bool = False,
    ):
        self.split, self.root, self.masks = split, Path(root), masks
        self.images = self.root / images.replace("{split}", split)
        self.annotations = self.root / annotations.replace("{split}", split)
        self.official = annotations == "annotations/instances_{split}2017.json"

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by category id; COCO's own while there is no annotation file."""
        if self.annotations.exists():
            return read_categories(self.annotations)
        ids = [number for number in range(1, 91) if number not in COCO_GAPS]
        return dict(zip(ids, COCO_CLASSES))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.categories.values())

    @property
    def palette(self) -> Palette:
        """A colour (red, green, blue) for each class."""
        return bright_palette(len(self.categories))

    @cached_property
    def index(self) -> CocoIndex:
        """The annotation file's content.

        Raises:
            InputError: The file or a picture is missing, or the file is wrong, see :func:`read_index`.
        """
        if not self.root.is_dir():
            raise InputError(f"there is no folder {self.root}; expected under it {self._tree()}")
        index = read_index(self.annotations)
        if not index.files:
            raise InputError(f"{self.annotations} lists no pictures")
        present: dict[Path, set[str]] = {}
        missing = []
        for image_id, name in zip(index.image_ids, index.files):
            path = self.images / name
            if path.parent not in present:
                present[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
            if path.name not in present[path.parent]:
                missing.append(f"{path} (id {image_id})")
        if missing:
            raise InputError(
                f"{self.annotations} lists {len(index.files)} pictures, {len(missing)} of which are missing, the first "
                f"is {missing[0]}: add them, or set the option images to their folder"
            )
        if self.masks and (bare := index.ids[index.bare()].tolist()):
            raise InputError(
                f"{self.annotations}: {len(bare)} annotations have no segmentation (ids {some(bare)}): set data.masks "
                "to false to train on boxes alone, or remove them"
            )
        if index.notes:
            warnings.warn("; ".join(index.notes), stacklevel=2)
        return index

    def __len__(self) -> int:
        return len(self.index.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        index = self.index
        path, size = self.images / index.files[number], tuple(index.sizes[number].tolist())
        image = read_picture(path)
        if tuple(image.shape[-2:]) != size:
            raise InputError(
                f"{path} is {image.shape[-1]} x {image.shape[-2]} (as its EXIF orientation turns it), but {index.path} "
                f"says {size[1]} x {size[0]} of picture {index.image_ids[number]}: mend the one or the other"
            )
        objects = slice(index.first[number], index.first[number + 1])
        boxes = torch.from_numpy(index.boxes[objects]).float()
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(index.labels[objects]),
            "iscrowd": torch.from_numpy(index.crowd[objects]),
            "image_id": index.image_ids[number],
            "original_size": torch.tensor(size),
        }
        if self.masks:
            target["masks"] = tv_tensors.Mask(index.masks(number))
        return {"image": image, "target": target, "name": os.path.splitext(index.files[number])[0]}

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set with six classes in COCO's official layout.

        Raises:
            InputError: The layout is another one.
        """
        if not self.official:
            raise InputError("generated data has COCO's own layout: leave out the options images and annotations")
        synthetic_layouts.write_coco(self.root, options)

    def _tree(self) -> str:
        return f"{self.images.relative_to(self.root)}/ and {self.annotations.relative_to(self.root)}"
