"""Reading images from files, with one clear sentence for every file that is not what it should be."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from torchvision import tv_tensors

from lk_downstream import archives, trust
from lk_downstream.data.bands import TIFF, is_deep, read_bands
from lk_downstream.errors import DamagedFile, InputError

try:  # Faster than Pillow, same pixels. Deprecated since torchvision 0.29: when it is gone, Pillow reads everything.
    from torchvision.io import ImageReadMode, decode_jpeg  # and no decode_png: damaged data end the process there
except ImportError:
    decode_jpeg = None

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")

_ORIENTATION = 0x0112  # EXIF tag; from 5 on width and height are exchanged


def find_images(root: Path, folder: str = ".", visited: list[str] | None = None) -> list[bytes]:
    """Paths below ``root`` of all images in its ``folder`` and below, also behind links; hidden files do not count.

    A file that several paths lead to counts once. The folders that are looked into are added to ``visited``.

    Raises:
        InputError: A folder cannot be listed.
    """
    found: list[bytes] = []
    numbers = array("Q")  # of the files on their disk
    links: dict[bytes, tuple[int, int] | None] = {}  # and the disk and number of what they lead to
    for place, entry in walk(root, folder, visited):
        if entry.name.lower().endswith(IMAGE_SUFFIXES):
            path = os.fsencode(f"{place}/{entry.name}")
            if not entry.is_symlink():
                found.append(path)
                numbers.append(entry.inode())
            else:  # one that leads nowhere is refused when it is read
                links[path] = (entry.stat().st_dev, entry.stat().st_ino) if entry.is_file() else None
    if links:
        targets = {target[1] for target in links.values() if target}
        twice = [os.stat(root / os.fsdecode(path)) for path, number in zip(found, numbers) if number in targets]
        seen = {(status.st_dev, status.st_ino) for status in twice}
        for path in sorted(links):
            if links[path] is None or links[path] not in seen:
                seen.add(links[path])
                found.append(path)
    return found


def walk(root: Path, folder: str = ".", visited: list[str] | None = None) -> Iterator[tuple[str, os.DirEntry]]:
    """All files in a ``folder`` of ``root`` and below: their folder's path below ``root``, and their entry.

    Hidden files and folders do not count. Links are followed, but no folder is visited twice: a link may lead to a
    folder above it, and so on without end. The folders that are looked into are added to ``visited``.

    Raises:
        InputError: A folder cannot be listed.
    """
    waiting, linked, seen = [folder], [], set()
    while waiting or linked:
        place = waiting.pop() if waiting else linked.pop(0)
        try:
            if os.path.isdir(root / place):  # within an archive there are no links
                status = os.stat(root / place)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            if visited is not None:
                visited.append(place)
            with archives.scandir(root / place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not entry.is_dir():
                        yield place, entry
                    elif entry.is_symlink():
                        linked.append(f"{place}/{entry.name}")
                    else:
                        waiting.append(f"{place}/{entry.name}")
        except OSError as error:
            raise InputError(f"{root / place} cannot be listed ({error.strerror}): mend or remove it") from error
        linked.sort()


def load_image(
    path: str | Path,
    orientation: bool = True,
    data: bytes | None = None,
    channels: int = 3,
    value_range: tuple[float, float] | None = None,
) -> tv_tensors.Image:
    """An image as uint8 RGB, (3, H, W), turned as its EXIF ``orientation`` says (as OpenCV and mmcv do).

    ``data`` is what the file holds, where it is no file of its own. Of other than 3 ``channels``, (C, H, W), it has
    those of the file, see :func:`read_bands`, also for the ``value_range`` of images of more than 8 bits.

    The memory is laid out as pixels of three bytes (channels last), which is what the decoder gives and what the
    resize of ``transforms`` is fastest with.

    Raises:
        DamagedFile: The file is truncated or no image.
        InputError: The file is missing, too large, or has more than 8 bits per channel.
    """
    data = file_bytes(path) if data is None else data
    if channels != 3:
        return _of_bands(path, data, channels, orientation, value_range)
    if image := _fast_jpeg(path, data, orientation):
        return tv_tensors.Image(image[0])
    try:
        with trust.open_image(path, data) as file:
            if not (is_deep(file) if value_range else file.mode.startswith(("I", "F"))):
                turned = ImageOps.exif_transpose(file) if orientation else file
                return tv_tensors.Image(torch.from_numpy(np.array(turned.convert("RGB"))).permute(2, 0, 1))
    except DamagedFile:
        if not (value_range and data.startswith(TIFF)):
            raise
    return _of_bands(path, data, channels, orientation, value_range)


def _of_bands(path: str | Path, data: bytes, *options: Any) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(read_bands(path, data, *options)).permute(2, 0, 1))


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image, as its EXIF orientation turns it, by its header alone.

    Raises:
        DamagedFile: The file is no image.
        InputError: The file is missing or too large.
    """
    with trust.open_image(path, file_bytes(path)) as file:
        width, height = file.size
        turned = file.getexif().get(_ORIENTATION, 1) >= 5
    return (height, width) if turned else (width, height)


def _fast_jpeg(path: str | Path, data: bytes, orientation: bool) -> list[torch.Tensor]:
    """The image by torchvision's decoder (twice as fast as Pillow, same pixels), or [] if Pillow must read it."""
    if data[:2] != b"\xff\xd8" or not trust.check_jpeg(path, data) or not decode_jpeg:
        return []
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return [decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=orientation)]
    except RuntimeError:  # damaged, or a kind that only Pillow reads
        return []


def file_bytes(path: str | Path) -> bytes:
    """The content of an image file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return trust.read_bytes(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
