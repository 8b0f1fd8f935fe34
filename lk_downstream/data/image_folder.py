"""Images without labels, for prediction."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from torch.utils.data import Dataset

from lk_downstream.archives import Place
from lk_downstream.data.reading import IMAGE_SUFFIXES, find_images, load_image
from lk_downstream.data.shards import Shards, image_column
from lk_downstream.errors import InputError

PARQUET = ".parquet"


class ImageFolder(Dataset):
    """An image file, or all images below a folder in the order of their paths, or the rows of Parquet files.

    An item is ``{"image": tv_tensors.Image uint8 (3, H, W) RGB, "name": str}``; the name is the path below the folder
    without its suffix, unless two images differ in nothing else.

    Args:
        path: A file, a folder or an archive; a Parquet file with a column of images, or a folder of some and no image.
        channels: Of the images, see :func:`load_image`.
        value_range: Likewise.

    Raises:
        InputError: There is nothing at ``path``, or no image below it.
    """

    def __init__(self, path: str | os.PathLike, channels: int = 3, value_range: tuple[float, float] | None = None):
        self.channels, self.value_range, self.shards, self.column = channels, value_range, None, ""
        path = Place(path)
        if path.is_file():
            self.root, self.files = path.parent, [path]
        elif path.is_dir():
            self.root, self.files = path, sorted(path / os.fsdecode(found) for found in find_images(path))
        else:
            raise InputError(f"there is no image or folder {path}")
        shards = self.files if path.suffix.lower() == PARQUET else parquet_in(path) if not self.files else []
        if shards:
            self.shards = Shards(shards)
            self.column = image_column(self.shards)
            self.files = [self.root / name for name in self._row_names()]
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
        path, data = self.files[index], None
        if self.shards is not None:
            path, data = self.shards.path(index), self.shards.image(index, self.column)
        return {
            "image": load_image(path, data=data, channels=self.channels, value_range=self.value_range),
            "name": self.names[index],
        }

    def _row_names(self) -> list[str]:
        """Names of the rows: those of their images, if results can be named so."""
        names = self.shards.names(self.column)
        if any(part in ("", ".", "..") or set(part) & set(":\\") for name in names for part in name.split("/")):
            names = [self.shards.name(row) for row in range(len(self.shards))]
        return names


def parquet_in(folder: Path) -> list[Path]:
    """The Parquet files of a folder, also where they lie in one named data, as in Hugging Face's data sets."""
    return sorted(path for place in (folder, folder / "data") for path in place.glob(f"*{PARQUET}"))
