"""What data sets for detection have in common: images, and objects in the form of COCO's annotation files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from lk_downstream import archives
from lk_downstream.archives import Place
from lk_downstream.data.classes import Palette, bright_palette
from lk_downstream.data.coco_index import CocoIndex, make_index
from lk_downstream.data.reading import load_image
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError, some

KEYS = {"images": ("file_name", "height", "width"), "annotations": ("bbox",)}


class DetectionDataset(Dataset):
    """Images with boxes and, if wanted, masks of their objects.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "target": {...}, "name": str}``; the target has
    ``boxes`` (tv_tensors.BoundingBoxes float32 (G, 4), x1, y1, x2, y2), ``labels`` int64 (G,), ``iscrowd`` bool (G,),
    ``masks`` (tv_tensors.Mask uint8 (G, H, W)) if wanted, ``image_id`` and ``original_size`` int64 (2,).

    A subclass sets ``images`` and ``annotations`` and says what the files hold in COCO's form, in which it is also
    scored.

    Args:
        split: ``train``, ``val`` or ``test``, or the name that the data set itself uses.
        root: Folder of the data set.
        masks: Whether items have masks.

    Attributes:
        images: Folder of the images.
        annotations: File or folder of what is known of them.
        scored: Whether detections are to be scored by it, so that what ``read_index`` parses is kept for ``truth``.
    """

    images: Path
    annotations: Path
    scored = False
    _parsed: dict[str, Any] | None = None

    def __init__(self, split: str, root: str, masks: bool = False):
        self.split, self.root, self.masks = split, Place(root).expanduser(), masks

    def content(self) -> tuple[dict[str, Any], list[str]]:
        """Images, objects and classes, as :func:`lk_downstream.data.coco_file.checked` gives them.

        Raises:
            InputError: Something is missing or wrong.
        """
        raise NotImplementedError

    def image_ids(self) -> dict[str, int]:
        """Ids by the names of the images, for predictions: nothing else of the annotations is looked at.

        Raises:
            InputError: The images are not listed, or not in a way that can be read.
        """
        raise NotImplementedError

    def tree(self) -> str:
        """The files that are expected below the root."""
        return f"{self.images.relative_to(self.root)}/ and {self.annotations.relative_to(self.root)}"

    @property
    def categories(self) -> dict[int, str]:
        """Names of the classes by category id, in the order of the labels 0, 1, and so on."""
        return self.index.categories

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
        """What the annotations hold.

        Raises:
            InputError: A file or an image is missing, or a file is wrong.
        """
        if not self.root.is_dir():
            raise InputError(f"there is no folder {self.root}; expected under it {self.tree()}")
        index = self.read_index()
        if not index.files:
            raise InputError(f"{self.annotations} lists no images")
        index.files = self._present(index)
        if self.masks and (bare := index.ids[index.bare()].tolist()):
            raise InputError(
                f"{self.annotations}: {len(bare)} annotations have no segmentation (ids {some(bare)}): set data.masks "
                "to false to train on boxes alone, or remove them"
            )
        if index.notes:
            warnings.warn("; ".join(index.notes), stacklevel=2)
        return index

    def read_index(self) -> CocoIndex:
        """What the annotations hold, before the images are looked for.

        Raises:
            InputError: A file is missing or wrong.
        """
        content, notes = self.content()
        if self.scored:
            self._parsed = content
        return make_index(self.annotations, content, notes)

    def truth(self) -> dict[str, Any]:
        """What the annotations hold, in COCO's form, to score detections by: parsed, unless ``read_index`` just did so.

        Raises:
            InputError: A file is missing or wrong.
        """
        content, self._parsed = self._parsed, None
        return self.content()[0] if content is None else content

    def forget_truth(self) -> None:
        """Let go of what was parsed, in a process that scores nothing."""
        self._parsed = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parsed": None}  # which no loader process needs

    def _present(self, index: CocoIndex) -> Sequence[str]:
        """The images' names below their folder, as they are there.

        Tools write names with backslashes, and with the path that an image had where it was annotated: of a name that
        is not there, the one with slashes and then its last part alone are tried.
        """
        folders: dict[str, set[str]] = {}

        def there(name: str) -> bool:
            folder, _, base = name.rpartition("/")
            if folder not in folders:
                path = self.images / folder
                folders[folder] = set()
                if path.is_dir():
                    with archives.scandir(path) as entries:
                        folders[folder] = {entry.name for entry in entries}
            return base in folders[folder]

        found, missing = [], []
        for image_id, name in zip(index.image_ids, index.files):
            slashed = name.replace("\\", "/")
            tried = (name, slashed, slashed.rpartition("/")[2])
            found.append(next((candidate for candidate in tried if there(candidate)), name))
            if not there(found[-1]):
                missing.append(f"{self.images / name} (id {image_id})")
        if missing:
            raise InputError(
                f"{self.annotations} lists {len(index.files)} images, {len(missing)} of which are missing, the first "
                f"is {missing[0]}: add them, or set the option images to their folder"
            )
        twice = len(set(found)) < len(found) and len(set(index.files)) == len(index.files)
        if twice:
            raise InputError(
                f"{self.annotations} lists images of one name in several folders, which are not below {self.images}: "
                "set the option images to the folder that their names start from"
            )
        return index.files if found == list(index.files) else found

    def image_path(self, number: int) -> Path:
        """The file of an image."""
        return self.images / self.index.files[number]

    def __len__(self) -> int:
        return len(self.index.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        index = self.index
        path, size = self.image_path(number), tuple(index.sizes[number].tolist())
        image = load_image(path)
        if tuple(image.shape[-2:]) != size:
            raise InputError(
                f"{path} is {image.shape[-1]} x {image.shape[-2]} (as its EXIF orientation turns it), but {index.path} "
                f"says {size[1]} x {size[0]} of image {index.image_ids[number]}: mend the one or the other"
            )
        objects = slice(index.first[number], index.first[number + 1])
        boxes = torch.tensor(index.boxes[objects]).float()
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor(index.labels[objects]),
            "iscrowd": torch.tensor(index.crowd[objects]),
            "image_id": int(index.image_ids[number]),
            "original_size": torch.tensor(size),
        }
        if self.masks:
            target["masks"] = tv_tensors.Mask(index.masks(number))
        return {"image": image, "target": target, "name": os.path.splitext(index.files[number])[0]}

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set in this data set's layout to ``root``."""
        raise InputError(f"{type(self).__name__} has no generated data: remove the option synthetic")
