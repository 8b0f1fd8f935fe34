"""COCO, and any data set with annotation files in COCO's format."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from lk_downstream.data import synthetic_layouts
from lk_downstream.data.box_formats import BoxFormat
from lk_downstream.data.classes import COCO_CLASSES, COCO_GAPS
from lk_downstream.data.coco_file import load_content
from lk_downstream.data.coco_index import CocoIndex
from lk_downstream.data.coco_kept import kept_index
from lk_downstream.data.coco_lists import read_categories, read_image_ids
from lk_downstream.data.detection import KEYS, DetectionDataset
from lk_downstream.data.pairing import placed
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.errors import InputError

OFFICIAL = "{split}2017", "annotations/instances_{split}2017.json"
OFFICIAL_TEST = "test2017", "annotations/image_info_{split}2017.json"  # of images without annotations
MOST_SHOWN = 3  # annotation files that a message names


class Coco(DetectionDataset):
    """Images and annotation files in COCO's format, see :class:`DetectionDataset`.

    The layout is the official one, ``{train,val}2017/*.jpg`` and ``annotations/instances_{train,val}2017.json``; for
    another one give ``images`` and ``annotations``, in which ``{split}`` stands for the split. The classes are those of
    the annotation file, in the order of their ids.

    Args:
        split: ``train`` or ``val``, ``test`` or ``test-dev``, or whatever ``{split}`` is to be.
        root: Folder of the data set.
        images: Folder of the images, below ``root``.
        annotations: Annotation file, below ``root``.
        masks: Whether items have masks.
        box_format: What ``bbox`` holds, where a tool writes another form than COCO's.
    """

    def __init__(
        self,
        split: str,
        root: str = "data/coco",
        images: str = OFFICIAL[0],
        annotations: str = OFFICIAL[1],
        masks: bool = False,
        box_format: BoxFormat = "xywh",
    ):
        super().__init__(split, root, masks)
        self.official, self.box_format = annotations == OFFICIAL[1], box_format
        if (images, annotations) == OFFICIAL and split.startswith("test"):
            own = self.root / placed("annotations", annotations, split)
            images, annotations = OFFICIAL if own.exists() else OFFICIAL_TEST
        self.images = self.root / placed("images", images, split)
        self.annotations = self.root / placed("annotations", annotations, split)

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by category id; COCO's own while there is no annotation file."""
        if self.annotations.exists():
            return read_categories(self.annotations)
        ids = [number for number in range(1, 91) if number not in COCO_GAPS]
        return dict(zip(ids, COCO_CLASSES))

    def content(self) -> tuple[dict[str, Any], list[str]]:
        """What the annotation file holds."""
        if not self.annotations.exists() and (others := self._others()):
            raise InputError(
                f"there is no annotation file {self.annotations}, but {', '.join(others)}: set the options "
                "data.dataset.annotations and data.dataset.images, with {split} in the place of the split"
            )
        return load_content(self.annotations, **KEYS, box_format=self.box_format)

    def read_index(self) -> CocoIndex:
        """See :meth:`DetectionDataset.read_index`; that of a large file is kept, and parsed once."""
        return kept_index(self.annotations, self.box_format, super().read_index)

    def image_ids(self) -> dict[str, int]:
        """See :meth:`DetectionDataset.image_ids`."""
        try:
            return read_image_ids(self.annotations)
        except (OSError, ValueError) as error:
            raise InputError(f"the images of {self.annotations} cannot be read ({error})") from error

    def _others(self) -> list[str]:
        """Some annotation files that are there."""
        found = sorted(path for depth in ("*.json", "*/*.json", "*/*/*.json") for path in self.root.glob(depth))
        return [str(Path(path).relative_to(self.root)) for path in found[:MOST_SHOWN]]

    def write_synthetic(self, options: Synthetic) -> None:
        """Write a small generated data set with six classes in COCO's official layout.

        Raises:
            InputError: The layout is another one.
        """
        if not self.official:
            raise InputError("generated data has COCO's own layout: leave out the options images and annotations")
        synthetic_layouts.write_coco(self.root, options)
