"""Data sets in YOLO's layout: a file ``data.yaml``, and a text file of boxes or polygons for each image."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream import trust
from lk_downstream.data.box_formats import corners
from lk_downstream.data.coco_file import checked
from lk_downstream.data.detection import KEYS, DetectionDataset
from lk_downstream.data.reading import IMAGE_SUFFIXES, find_images, image_size
from lk_downstream.data.synthetic import counted
from lk_downstream.errors import InputError, near_names

OTHER_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_WITHIN = 1e-3  # of a fraction, which rounding may bring beyond the image


class Yolo(DetectionDataset):
    """Images and text files as the YOLO tools write them, see :class:`DetectionDataset`.

    ``data.yaml`` in the root names the classes (``names``, a list or a mapping from 0 on) and the place of each split
    (``train``, ``val``, ``test``: a folder, a text file that lists images, or a list of these). An image
    ``images/.../NAME.jpg`` has the file ``labels/.../NAME.txt``, or none if there is no object in it. A line holds the
    number of a class and either a box (centre, width and height) or a polygon (x, y, x, y, and so on), as fractions of
    the image as its EXIF orientation turns it.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: Folder of ``data.yaml``.
        file: Name of that file.
        masks: Whether items have masks; a box without a polygon is none.
    """

    def __init__(self, split: str, root: str, file: str = "data.yaml", masks: bool = False):
        super().__init__(split, root, masks)
        self.images, self.annotations = self.root, self.root / file

    def tree(self) -> str:
        """The files that are expected below the root."""
        return f"{self.annotations.name} (names, train and val), images/train/NAME.jpg and labels/train/NAME.txt"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``data.yaml`` holds.

        Raises:
            InputError: It is missing, or no such file.
        """
        try:
            found = trust.read_yaml(self.annotations)
        except OSError as error:
            there = sorted(path.name for path in self.root.glob("*.y*ml"))
            hint = f"; there is {', '.join(there[:3])}: set data.dataset.file" if there else ""
            raise InputError(f"cannot read {self.annotations}: {error.strerror or error}{hint}") from error
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{self.annotations} is no YAML file ({error})") from error
        if not isinstance(found, dict) or "names" not in found:
            raise InputError(f"{self.annotations} names no classes: add the entry names, such as names: [cat, dog]")
        return found

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by their number."""
        names = self.settings["names"]
        names = dict(enumerate(names)) if isinstance(names, list) else names
        if not isinstance(names, dict) or not all(isinstance(number, int) and number >= 0 for number in names):
            raise InputError(f"{self.annotations}: names is neither a list nor a mapping from numbers to names")
        return {number: str(names[number]) for number in sorted(names)}

    def files(self) -> list[Path]:
        """The images of the split, in the order of their paths.

        Raises:
            InputError: The split, or a place that it names, is not there.
        """
        splits = {key: self.settings[key] for keys in OTHER_NAMES.values() for key in keys if self.settings.get(key)}
        key = next((name for name in OTHER_NAMES.get(self.split, (self.split,)) if name in splits), None)
        if key is None:
            hint = near_names(self.split, splits) or f"; it has {', '.join(splits) or 'none'}"
            raise InputError(f"{self.annotations} has no split {self.split!r}{hint}")
        places = splits[key] if isinstance(splits[key], list) else [splits[key]]
        found: list[Path] = []
        for place in places:
            path = self._place(str(place))
            if path.is_dir():
                found += sorted(path / os.fsdecode(name) for name in find_images(path))
            else:
                found += self._listed(path)
        return found

    def image_ids(self) -> dict[str, int]:
        """See :meth:`DetectionDataset.image_ids`."""
        return {self._name(path): number for number, path in enumerate(self.files(), start=1)}

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _place(self, text: str) -> Path:
        """Where a split is: ``data.yaml`` was often moved, so that its own path is one of several that are tried."""
        base = self.root / str(self.settings.get("path") or "")
        tried = [base / text, self.root / text, self.root / text.lstrip("./\\")]
        for path in tried:
            if path.exists():
                return path
        raise InputError(
            f"{self.annotations}: {self.split} is {text!r}, and neither {tried[0]} nor {tried[-1]} is there: correct "
            "the entry"
        )

    def _listed(self, path: Path) -> list[Path]:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return [path]
        try:
            lines = [line.strip() for line in trust.read_bytes(path).decode("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the list of images {path} ({error})") from error
        found = []
        for line in lines:
            there = [place / line for place in (path.parent, self.root) if (place / line).is_file()]
            if not there:
                raise InputError(f"{path} lists {line!r}, which is no file: correct the list")
            found.append(there[0])
        return found

    def content(self) -> tuple[dict[str, Any], list[str]]:
        """What the text files hold, in COCO's form; images count from 1, in the order of their paths."""
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        paths = self.files()
        for number, path in enumerate(counted(paths, len(paths), f"reading {self.split}"), start=1):
            width, height = image_size(path)
            images.append({"id": number, "file_name": self._name(path), "width": width, "height": height})
            objects += [{"image_id": number, **found} for found in self._objects(labels_of(path), width, height)]
        for number, found in enumerate(objects, start=1):
            found["id"] = number
        kinds = [{"id": number, "name": name} for number, name in self.categories.items()]
        return checked(self.annotations, {"images": images, "annotations": objects, "categories": kinds}, **KEYS)

    def _objects(self, path: Path, width: int, height: int) -> list[dict[str, Any]]:
        try:
            lines = trust.read_text(path).splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        size, found = np.array([[width, height]], dtype=np.float64), []
        for number, line in enumerate(lines, start=1):
            if not (words := line.split()):
                continue
            try:
                label, values = float(words[0]), np.array(words[1:], dtype=np.float64)
            except ValueError:
                raise InputError(f"{path}: line {number} holds something else than numbers: {line!r:.60}") from None
            if label not in self.categories:
                known = f"{min(self.categories)} to {max(self.categories)}"
                raise InputError(
                    f"{path}: line {number} is of the class {words[0]}, and {self.annotations} names {known}: correct "
                    "the line, or add the class"
                )
            if len(values) != 4 and (len(values) < 6 or len(values) % 2):
                raise InputError(
                    f"{path}: line {number} has {len(values)} numbers after the class, neither the four of a box nor "
                    "the pairs of a polygon"
                )
            if not ((values >= -_WITHIN) & (values <= 1 + _WITHIN)).all():
                raise InputError(
                    f"{path}: line {number} has the value {values[np.abs(values - 0.5).argmax()]:g}, where fractions "
                    f"of the image, 0 to 1, belong: divide by its size of {width} x {height}"
                )
            if len(values) == 4:
                x1, y1, x2, y2 = corners(values[None], size, "relative_cxcywh")[0].tolist()
                found.append({"category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
            else:
                points = values.reshape(-1, 2) * size
                low, high = points.min(0), points.max(0)
                box = [*low.tolist(), *(high - low).tolist()]
                outline = [points.ravel().tolist()]
                found.append({"category_id": int(label), "bbox": box, "segmentation": outline, "iscrowd": 0})
        return found


def labels_of(image: Path) -> Path:
    """The text file of an image: the last folder ``images`` of its path becomes ``labels``."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")
