"""Images without labels, for prediction."""

from __future__ import annotations

import os
from collections import Counter

from torch.utils.data import Dataset

from lk_downstream.archives import Place
from lk_downstream.data.reading import IMAGE_SUFFIXES, find_images, load_image
from lk_downstream.errors import InputError


class ImageFolder(Dataset):
    """An image file, or all images below a folder in the order of their paths.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "name": str}``; the name is the path below the folder
    without its suffix, unless two images differ in nothing else.

    Args:
        path: A file, a folder or an archive.
        channels: Of the images, see :func:`load_image`.

    Raises:
        InputError: There is nothing at ``path``, or no image below it.
    """

    def __init__(self, path: str | os.PathLike, channels: int = 3):
        self.channels = channels
        path = Place(path)
        if path.is_file():
            self.root, self.files = path.parent, [path]
        elif path.is_dir():
            self.root, self.files = path, sorted(path / os.fsdecode(found) for found in find_images(path))
        else:
            raise InputError(f"there is no image or folder {path}")
        if not self.files:
            raise InputError(f"no image below {path}; expected files such as NAME{' or NAME'.join(IMAGE_SUFFIXES)}")
        counts = Counter(file.with_suffix("") for file in self.files)
        self.names = [
            (file if counts[file.with_suffix("")] > 1 else file.with_suffix("")).relative_to(self.root).as_posix()
            for file in self.files
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        return {"image": load_image(self.files[index], channels=self.channels), "name": self.names[index]}
