"""Images too large to be decoded whole: their rows one after the other, in as much memory as is asked for at once.

The rows of PNG, JPEG, TIFF and WebP files come from libvips (https://www.libvips.org, through pyvips), which decodes an
image from the top to the bottom while it is read. A progressive JPEG or interlaced PNG file, whose first row may depend
on its last bytes, is held whole by the decoders, with two or three bytes for each value.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lk_downstream import trust
from lk_downstream.data.reading import load_image
from lk_downstream.errors import DamagedFile, InputError

# Of a file's first bytes: the loader of libvips, named outright, since it would try others that call other programs.
_LOADERS = (
    (b"\x89PNG", "pngload"),
    (b"\xff\xd8", "jpegload"),
    (b"II*\0", "tiffload"),
    (b"MM\0*", "tiffload"),
    (b"II+\0", "tiffload"),
    (b"MM\0+", "tiffload"),
    (b"RIFF", "webpload"),
)
_STRIP = 64  # rows that are fetched at once


class Rows:
    """The rows of an image, from the top to the bottom.

    Args:
        image: uint8 (C, H, W).
    """

    def __init__(self, image: Tensor):
        self.image = image
        self.size: tuple[int, int] = (image.shape[1], image.shape[2])

    def read(self, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last``, which may begin no earlier than those read before: uint8 (C, rows, W)."""
        return self.image[:, first:last]


class FileRows(Rows):
    """The rows of a file.

    Args:
        path: PNG, JPEG, TIFF or WebP.
        channels: Of the images, see :func:`load_image`; 0: whatever it has.

    Raises:
        InputError: It is none of these, has other channels, more than 8 bits, or is to be turned.
        DamagedFile: It cannot be decoded.
    """

    def __init__(self, path: Path, channels: int = 3):
        import pyvips

        self.path, self.error = path, pyvips.Error
        try:
            with open(path, "rb") as file:
                start = file.read(16)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        loader = next((name for mark, name in _LOADERS if start.startswith(mark)), None)
        if loader is None:
            raise InputError(f"{path} is none of PNG, JPEG, TIFF and WebP, whose rows can be read one by one")
        try:
            image = getattr(pyvips.Image, loader)(str(path), access="sequential", fail_on="error")
            if image.get_typeof("orientation") and image.get("orientation") > 1:
                raise InputError(f"{path} is to be turned, by its EXIF data: save it turned, to predict on it in tiles")
            if image.format != "uchar":
                raise InputError(f"{path} has more than 8 bits per channel: convert it to an 8-bit image")
            if channels == 3:
                image = image[:3] if image.bands > 3 and image.interpretation != "cmyk" else image.colourspace("srgb")
            if channels and image.bands != channels:
                raise InputError(f"{path} has {image.bands} channels, but the model takes {channels}")
        except pyvips.Error as error:
            raise self._damaged(error) from error
        self.size = (image.height, image.width)
        self.channels, self.region = channels, pyvips.Region.new(image)
        self.first, self.kept = 0, np.empty((0, image.width, channels), np.uint8)

    def read(self, first: int, last: int) -> Tensor:
        """See :meth:`Rows.read`.

        Raises:
            DamagedFile: The file ends before, or is damaged.
        """
        if first < self.first:
            raise ValueError(f"rows from {first} after those from {self.first}")
        width, there = self.size[1], self.first + len(self.kept)
        parts = [self.kept[max(0, first - self.first) :]]
        while there < last:
            number = min(_STRIP, last - there)
            try:
                data = self.region.fetch(0, there, width, number)
            except self.error as error:
                raise self._damaged(error) from error
            there += number
            strip = np.frombuffer(data, np.uint8).reshape(number, width, self.channels)
            if there > first:
                parts.append(strip[max(0, first - there + number) :])
        self.kept, self.first = np.concatenate(parts) if len(parts) > 1 else parts[0], first
        return torch.from_numpy(self.kept[: last - first]).permute(2, 0, 1)

    def _damaged(self, error: Exception) -> DamagedFile:
        said = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        return DamagedFile(f"{self.path} is truncated or damaged ({said}): download or copy it again, or remove it")


def open_rows(path: Path, channels: int = 3, value_range: tuple[float, float] | None = None) -> Rows:
    """The rows of a file; without pyvips, and of other formats, the image is decoded whole, within the usual limits.

    Raises:
        InputError: See :class:`FileRows`; or it is too large to be decoded whole, and pyvips is not installed.
        DamagedFile: It cannot be decoded.
    """
    there = importlib.util.find_spec("pyvips") is not None
    if (
        there
        and value_range is None
        and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
        and _is_plain(path)
    ):
        return FileRows(path, channels)
    try:
        return Rows(load_image(path, channels=channels, value_range=value_range))
    except InputError as error:
        if there or trust.MAX_PIXELS[0] not in str(error):
            raise
        raise InputError(
            f"{path} is too large to be decoded whole; its rows are read by pyvips: pip install 'lk_downstream[large]'"
        ) from error


def is_large(path: Path, pixels: int) -> bool:
    """Whether an image that can be read row by row has more than so many pixels, by its header alone."""
    if importlib.util.find_spec("pyvips") is None or not _is_plain(path):
        return False
    try:
        height, width = FileRows(path, channels=0).size
    except InputError:  # which reading it says
        return False
    return height * width > pixels


def _is_plain(path: Path) -> bool:
    """Whether it is a file of its own, and none within an archive."""
    return Path(path).is_file()
