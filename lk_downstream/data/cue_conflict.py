"""Images with the shape of one thing and the texture of another: the cue-conflict set of Geirhos et al.

"ImageNet-trained CNNs are biased towards texture; increasing shape bias improves accuracy and robustness", ICLR 2019;
github.com/rgeirhos/texture-vs-shape.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch.utils.data import Dataset

from lk_downstream.data.reading import find_images, load_image
from lk_downstream.errors import InputError, near_names


def _numbers(text: str) -> tuple[int, ...]:
    """Whole numbers, and ranges of them with both ends: ``8 10-16``."""
    ranges = [[int(end) for end in word.split("-")] for word in text.split()]
    return tuple(number for ends in ranges for number in range(ends[0], ends[-1] + 1))


# The 16 categories, and which of ImageNet's 1000 classes belong to each; not all birds and dogs do.
CATEGORIES = {
    "airplane": _numbers("404"),
    "bear": _numbers("294-297"),
    "bicycle": _numbers("444 671"),
    "bird": _numbers("8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145"),
    "boat": _numbers("472 554 625 814 914"),
    "bottle": _numbers("440 720 737 898 899 901 907"),
    "car": _numbers("436 511 817"),
    "cat": _numbers("281-286"),
    "chair": _numbers("423 559 765 857"),
    "clock": _numbers("409 530 892"),
    "dog": _numbers("152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268"),
    "elephant": _numbers("385 386"),
    "keyboard": _numbers("508 878"),
    "knife": _numbers("499"),
    "oven": _numbers("766"),
    "truck": _numbers("555 569 656 675 717 734 864 867"),
}
_NAME = re.compile(r"(?:.*_)?([a-z]+)\d*-([a-z]+)\d*")


class CueConflict(Dataset):
    """Images named after their shape and their texture, such as ``cat/cat1-knife3.png``.

    An item has ``image``, ``name``, ``label``, the category of the shape, and ``texture``, that of the texture, both
    numbers of :data:`CATEGORIES` in their order. Images whose shape and texture agree are no conflict, but there.

    Args:
        folder: Where the images are, in folders of their shapes or not.
        class_folders: As of :class:`lk_downstream.data.robustness.Tree`; those of ImageNet-1K.

    Raises:
        InputError: The model has other classes, or a file is not named as above.
    """

    def __init__(self, folder: Path, class_folders: Sequence[str]):
        if tuple(class_folders) != tuple(ImageNetInfo("imagenet-1k").label_names()):
            raise InputError(
                f"{folder}: shapes and textures are told apart by the 1000 classes of ImageNet, but the model has "
                f"{len(class_folders)}, the first {class_folders[0]}: give a model and a data.dataset of ImageNet-1K"
            )
        self.folder, self.classes = folder, len(class_folders)

    @cached_property
    def samples(self) -> list[tuple[str, int, int]]:
        """Path below the folder, shape and texture of each image."""
        numbers = {name: number for number, name in enumerate(CATEGORIES)}
        found = []
        for path in sorted(os.fsdecode(path).removeprefix("./") for path in find_images(self.folder)):
            names = match.groups() if (match := _NAME.fullmatch(Path(path).stem)) else ()
            if not names or not numbers.keys() >= set(names):
                odd = next((name for name in names if name not in numbers), "")
                raise InputError(
                    f"{self.folder / path} is not named after a shape and a texture, as cat1-knife3.png is, out of "
                    f"{', '.join(CATEGORIES)}{near_names(odd, CATEGORIES)}: rename or remove it"
                )
            found.append((path, numbers[names[0]], numbers[names[1]]))
        return found

    @property
    def found(self) -> tuple[str, ...]:
        """Categories of the shapes that there are."""
        shapes = {shape for _, shape, _ in self.samples}
        return tuple(name for number, name in enumerate(CATEGORIES) if number in shapes)

    def choice(self) -> torch.Tensor:
        """Which classes compete, bool (classes,): all."""
        return torch.ones(self.classes, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, shape, texture = self.samples[index]
        image = load_image(self.folder / path, orientation=False)
        return {"image": image, "label": shape, "texture": texture, "name": path}
