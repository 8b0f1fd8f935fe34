"""Data sets with an XML file for each image, as Pascal VOC has them and as annotation tools write them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lk_downstream import archives, trust
from lk_downstream.data.coco_file import checked
from lk_downstream.data.detection import KEYS, DetectionDataset
from lk_downstream.data.labels import class_names
from lk_downstream.data.pairing import placed
from lk_downstream.data.reading import IMAGE_SUFFIXES, image_size
from lk_downstream.data.synthetic import counted
from lk_downstream.errors import InputError, near_names, some

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CHALLENGE = "The VOC20"  # how the name of the database begins in the files of the challenge


class Voc(DetectionDataset):
    """Images and XML files in Pascal VOC's form, see :class:`DetectionDataset`.

    The layout is that of the challenge, ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml`` and the list of names
    ``ImageSets/Main/SPLIT.txt``; for another one give the options. Objects that are ``difficult`` neither count as
    found nor as missed, as COCO's crowds.

    Args:
        split: What ``{split}`` stands for, such as ``train``, ``val``, ``trainval`` or ``test``.
        root: Folder of the data set, such as ``VOCdevkit/VOC2012``.
        images: Folder of the images, below ``root``.
        annotations: Folder of the XML files, below ``root``; it may be the same.
        lists: Text file of the names of a split, below ``root``, one a line; an empty text: all XML files.
        classes: Names of the classes, or a text file with one a line (default: ``classes.txt`` in ``root`` if there is
            one, otherwise all names in the XML files of all splits, sorted).
        first_pixel: The coordinate of the first pixel: 1 in the files of the challenge, whose boxes include their last
            pixel, and 0 in those of annotation tools; None: by ``source/database`` of each file.
    """

    def __init__(
        self,
        split: str,
        root: str,
        images: str = "JPEGImages",
        annotations: str = "Annotations",
        lists: str = "ImageSets/Main/{split}.txt",
        classes: list[str] | str | None = None,
        first_pixel: int | None = None,
    ):
        super().__init__(split, root)
        self.images = self.root / placed("images", images, split)
        self.annotations = self.root / placed("annotations", annotations, split)
        self.list = self.root / placed("lists", lists, split) if lists else None
        if first_pixel not in (None, 0, 1):
            raise InputError(f"data.dataset.first_pixel is {first_pixel}: it is 0 or 1")
        self.given_classes, self.first_pixel = classes, first_pixel

    def tree(self) -> str:
        """The files that are expected below the root."""
        places = [self.images / "NAME.jpg", self.annotations / "NAME.xml", *([self.list] if self.list else [])]
        return ", ".join(place.relative_to(self.root).as_posix() for place in places)

    @cached_property
    def categories(self) -> dict[int, str]:
        """Names of the classes by their number, from 1 on."""
        if self.given_classes is not None or (self.root / "classes.txt").exists():
            names = class_names(self.given_classes, self.root)
        else:
            files = sorted(self.annotations.glob("*.xml"))
            found = (parse_file(path) for path in counted(files, len(files), "reading the names of the classes"))
            names = sorted({name for file in found for name, *_ in file["objects"]})
            if not names:
                raise InputError(f"{self.annotations} has no XML file with an object; expected {self.tree()}")
        return dict(enumerate(names, start=1))

    def names(self) -> list[str]:
        """The names of the split.

        Raises:
            InputError: The list cannot be read.
        """
        if self.list is None:
            return sorted(path.stem for path in self.annotations.glob("*.xml"))
        try:
            lines = trust.read_bytes(self.list).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            there = sorted(path.stem for path in self.list.parent.glob("*.txt"))
            hint = near_names(self.split, there) or (f"; there are {some(there)}" if there else "")
            hint = hint or ": set data.dataset.lists '' to take all XML files"
            raise InputError(f"cannot read the list of names {self.list} ({error}){hint}") from error
        # The lists of single classes (cat_train.txt) say -1, 0 or 1 after each name.
        return [line.split()[0] for line in lines if line.strip()]

    def content(self) -> tuple[dict[str, Any], list[str]]:
        """What the XML files hold, in COCO's form; images count from 1, in the order of the list."""
        numbers = {name: number for number, name in self.categories.items()}
        files = {path.stem: path.name for path in self._images()}
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        names = self.names()
        for number, name in enumerate(counted(names, len(names), f"reading {self.split}"), start=1):
            if name not in files:
                raise InputError(f"there is no image {self.images / name}.*: add it, or correct {self.list}")
            path = self.annotations / f"{name}.xml"
            file = parse_file(path)
            width, height = file["size"] or image_size(self.images / files[name])
            images.append({"id": number, "file_name": files[name], "width": width, "height": height})
            first = int(file["challenge"]) if self.first_pixel is None else self.first_pixel
            for label, (x1, y1, x2, y2), difficult in file["objects"]:
                if label not in numbers:
                    raise InputError(
                        f"{path} has the class {label!r}{near_names(label, numbers)}, which is none of the "
                        f"{len(numbers)} classes: add it to classes, or correct the file"
                    )
                box = [x1 - first, y1 - first, x2 - x1 + first, y2 - y1 + first]
                objects.append(
                    {"id": len(objects) + 1, "image_id": number, "category_id": numbers[label], "bbox": box}
                    | {"iscrowd": int(difficult)}
                )
        kinds = [{"id": number, "name": name} for name, number in numbers.items()]
        return checked(self.annotations, {"images": images, "annotations": objects, "categories": kinds}, **KEYS)

    def image_ids(self) -> dict[str, int]:
        """See :meth:`DetectionDataset.image_ids`."""
        files = {path.stem: path.name for path in self._images()}
        return {files.get(name, name): number for number, name in enumerate(self.names(), start=1)}

    def _images(self) -> list[Path]:
        if not self.images.is_dir():
            raise InputError(f"there is no folder {self.images}; expected under {self.root} {self.tree()}")
        with archives.scandir(self.images) as entries:
            return [self.images / entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]


def parse_file(path: Path) -> dict[str, Any]:
    """``size`` (width and height, or None), ``challenge`` (whether it is of the challenge's own) and ``objects``: name,
    corners x1, y1, x2, y2, and whether it is difficult.

    Raises:
        InputError: It cannot be read, or is no such file.
    """
    try:
        root = trust.read_xml(path)
    except OSError as error:
        raise InputError(f"cannot read the annotations {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no XML file ({error}): write it anew") from error
    size = root.find("size")
    sides = (_number(path, size, "width"), _number(path, size, "height")) if size is not None else (0, 0)
    objects = []
    for item in root.findall("object"):
        name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name or box is None:
            raise InputError(f"{path}: an object has no {'bndbox' if name else 'name'}: correct the file")
        bounds = tuple(_number(path, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        objects.append((name, bounds, (item.findtext("difficult") or "0").strip() == "1"))
    return {
        "size": tuple(int(side) for side in sides) if min(sides) >= 1 else None,
        "challenge": (root.findtext("source/database") or "").strip().startswith(CHALLENGE),
        "objects": objects,
    }


def _number(path: Path, element: Element, key: str) -> float:
    text = (element.findtext(key) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise InputError(f"{path}: {key} is {text!r:.40}, which is no number: correct the file")
    return value
