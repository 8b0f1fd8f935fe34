"""Anyone's images and masks, whatever their files are called and their masks look like."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from lk_downstream.data.classes import default_palette
from lk_downstream.data.labelme import read_labelme
from lk_downstream.data.labels import IGNORE_INDEX, class_names, file_values, label_table
from lk_downstream.data.mask_files import MASK_SUFFIXES, Colours, read_colours, read_mask
from lk_downstream.data.pairing import below, placed, suffix_key, suggest_suffixes, wildcard
from lk_downstream.data.reading import IMAGE_SUFFIXES, walk
from lk_downstream.data.segmentation import SegmentationDataset
from lk_downstream.errors import InputError, near_names

POLYGONS = ".json"


class SegmentationFolder(SegmentationDataset):
    """Anyone's images and masks: ``images/<split>/NAME.jpg`` with ``annotations/<split>/NAME.png``.

    A mask is a greyscale or palette image, a TIFF file or a NumPy array (``.npy``) whose values are class numbers, an
    image whose colours are classes (``mask_colours``), or LabelMe's JSON with polygons (``mask_suffix .json``). A value
    of the file is looked up in this order: ``label_map`` replaces it; if it is not named there, ``ignore_index`` is
    unlabelled; ``reduce_zero_label`` shifts it. Of LabelMe's files, what lies in no shape is the class
    ``_background_`` or ``background`` if there is one, and unlabelled if not.

    Args:
        split: What ``{split}`` stands for in the options below.
        root: Folder of the data set.
        classes: Names of the classes, or a text file with one name a line (default: ``classes.txt`` in ``root``).
        ignore_index: The value of unlabelled pixels in the files.
        reduce_zero_label: The files count classes from 1, and 0 is unlabelled: 0 -> 255, k -> k - 1.
        label_map: Replaces values of the files, such as ``{7: 0, 8: 1, 3: 255}``; 255 leaves a value unlabelled, and
            values that it does not name stay as they are.
        binary: The masks are 0 and 255 (or 0 and 1) for two classes, ``background`` and ``foreground`` if unnamed.
        images: Folder of the images below ``root``; ``{split}`` stands for the split, and ``*`` for any folder.
        annotations: Folder of the masks below ``root``, likewise.
        image_suffix: What the images' names end in after what they share with their masks, such as ``_sat.jpg``
            (default: any extension of an image).
        mask_suffix: What the masks' names end in, such as ``_mask.png`` or ``_labelTrainIds.png``.
        lists: A text file below ``root`` with one name of an image a line, such as ``splits/{split}.txt``
            (default: all files of the folders).
        palette: A colour for each class (default: distinct colours).
        mask_colours: The masks are colours: true for those of ``palette``; or a colour for each value, the first for 0,
            of which ``label_map`` may merge some; or a file of those below ``root``, ``R G B NAME`` a line.
    """

    def __init__(
        self,
        split: str,
        root: str,
        classes: list[str] | str | None = None,
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        label_map: dict[int, int] | None = None,
        binary: bool = False,
        images: str = "images/{split}",
        annotations: str = "annotations/{split}",
        image_suffix: str = "",
        mask_suffix: str = "",
        lists: str | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        mask_colours: bool | str | list[tuple[int, int, int]] = False,
    ):
        super().__init__(split, root)
        self.images, self.annotations = placed("images", images, split), placed("annotations", annotations, split)
        (self.image_folder, self.image_names), (self.mask_folder, self.mask_names) = map(
            wildcard, (self.images, self.annotations)
        )
        self.image_suffix, self.mask_suffix = image_suffix, mask_suffix
        if self.images == self.annotations and not mask_suffix:
            raise InputError(
                f"images and masks share the folder {self.root / self.images}: set mask_suffix to what the masks' "
                "names end in after those of their images, such as _mask.png (or .png, beside .jpg)"
            )
        self.list_file = self.root / placed("lists", lists, split) if lists else None
        if binary and classes is None and not (self.root / "classes.txt").exists():
            classes = ["background", "foreground"]
        self.classes = class_names(classes, self.root)
        self.palette = list(palette) if palette else default_palette(len(self.classes))
        if len(self.palette) != len(self.classes):
            raise InputError(f"palette has {len(self.palette)} colours, but there are {len(self.classes)} classes")
        self.colours = self._colours(mask_colours, bool(palette))
        if binary and len(self.classes) != 2:
            raise InputError(f"binary masks have two classes, but there are {len(self.classes)}: name two")
        self.reduce_zero_label = reduce_zero_label
        self.label_map = ({255: 1} if binary else {}) | (label_map or {})
        if self.polygons and (self.label_map or reduce_zero_label or self.colours):
            raise InputError("polygons have names: leave out label_map, reduce_zero_label, binary and mask_colours")
        self.label_table = label_table(
            len(self.classes), IGNORE_INDEX if self.polygons else ignore_index, reduce_zero_label, self.label_map
        )

    def _colours(self, given: bool | str | list[tuple[int, int, int]], palette: bool) -> Colours | None:
        if given is True and not palette:
            raise InputError("mask_colours is true, but palette does not say which colour a class has: set palette")
        if isinstance(given, str):
            given = read_colours(self.root / given)
        return Colours(self.palette if given is True else given) if given else None

    @property
    def polygons(self) -> bool:
        """Whether the masks are LabelMe's files."""
        return self.mask_suffix.lower().endswith(POLYGONS)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Index of each class name."""
        return {name: number for number, name in enumerate(self.classes)}

    @property
    def label_values(self) -> np.ndarray:
        """The value of a mask file for each class index, of several the one that ``label_map`` names."""
        return file_values(self.label_table, len(self.classes), self.label_map)

    @property
    def tree(self) -> str:
        """The files that this data set expects below its root."""
        lists = f"\n{self.list_file.relative_to(self.root)} (one name a line)" if self.list_file else ""
        image, mask = self.image_suffix or ".jpg (or .png ...)", self.mask_suffix or ".png"
        return f"{self.images}/NAME{image}\n{self.annotations}/NAME{mask}\nclasses.txt (one class name a line){lists}"

    def folders(self) -> tuple[Path, Path]:
        """``images`` and ``annotations`` of the split."""
        return self.root / self.image_folder, self.root / self.mask_folder

    def image_key(self, name: str) -> str | None:
        """The name without ``image_suffix``; a file that is a mask by its suffix is no image in the same folder."""
        if self.mask_suffix and self.images == self.annotations and self.mask_key(name) is not None:
            return None
        inner = below(name, self.image_names)
        return suffix_key(inner, self.image_suffix, IMAGE_SUFFIXES) if inner else None

    def mask_key(self, name: str) -> str | None:
        """The name without ``mask_suffix``."""
        inner = below(name, self.mask_names)
        return suffix_key(inner, self.mask_suffix, MASK_SUFFIXES) if inner else None

    def read_values(self, path: str) -> torch.Tensor:
        """The mask file's values, uint8, (H, W); of colours and polygons, the values that stand for them."""
        if self.polygons:
            return torch.from_numpy(read_labelme(path, self.numbers))
        return read_mask(path, self.colours)

    def pairing_hint(self, images: Path, masks: Path) -> str:
        """The suffixes that would pair the files of two folders, or that masks are no JPEG files."""
        if self.image_suffix or self.mask_suffix:
            return ""
        found = []
        sides = (images, self.image_names, IMAGE_SUFFIXES), (masks, self.mask_names, (*MASK_SUFFIXES, POLYGONS))
        for folder, pattern, extensions in sides:
            names = [below(f"{place}/{entry.name}".removeprefix("./"), pattern) for place, entry in walk(folder)]
            found.append([name for name in names if name and suffix_key(name, "", extensions)])
        if not found[1] and any(name and suffix_key(name, "", (".jpg", ".jpeg")) for name in names):
            return "its files are JPEG, which changes class numbers: write the masks as PNG"
        return suggest_suffixes(*found)

    def _missing(self, folder: Path) -> str:
        parent = folder.parent
        splits = sorted(item.name for item in parent.iterdir() if item.is_dir()) if parent.is_dir() else []
        if folder.name != self.split or not splits:
            return super()._missing(folder)
        hint = near_names(self.split, splits) or f"; there are {', '.join(splits)}"
        return f"{parent} has no split {self.split!r}{hint}"

    def _value_hint(self, values: np.ndarray) -> str:
        count, labels = len(self.classes), [int(value) for value in values if value != IGNORE_INDEX]
        if not self.reduce_zero_label and max(labels, default=0) == count:
            if 0 in labels:
                return (
                    f": values 0..{count} with {count} classes: if 0 is the background, name it as the first class; "
                    "if 0 is unlabelled, set reduce_zero_label true"
                )
            return f": values 1..{count} with {count} classes: set reduce_zero_label true"
        return ": name every class in classes, or replace values by label_map"

    def _own_name(self, split: str) -> str:
        return split
