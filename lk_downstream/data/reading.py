"""Reading pictures and label masks from files, with one clear sentence for every file that is not what it should be."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import tv_tensors

from lk_downstream.errors import InputError

try:  # Faster than Pillow, same pixels. Deprecated since torchvision 0.29: when they are gone, Pillow reads everything.
    from torchvision.io import ImageReadMode, decode_jpeg, decode_png
except ImportError:
    decode_jpeg = decode_png = None

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")  # lossless: a JPEG would change class numbers

_GREY, _RGB = 0, 2  # colour types of a PNG header
# What Pillow raises for files that it cannot read to the end, or that have more pixels than it takes to be harmless.
_REFUSALS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def find_pictures(root: Path, folder: str = ".") -> list[bytes]:
    """Paths below ``root`` of all pictures in its ``folder`` and below, also behind links; hidden files do not count.

    Raises:
        InputError: A folder cannot be listed.
    """
    found: list[bytes] = []
    waiting = [folder]
    try:
        while waiting:
            place = waiting.pop()
            with os.scandir(root / place) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        waiting.append(f"{place}/{entry.name}")
                    elif entry.name.lower().endswith(PICTURE_SUFFIXES):
                        found.append(os.fsencode(f"{place}/{entry.name}"))
    except OSError as error:  # also of links in a ring, whose paths grow too long
        raise InputError(f"{root / folder} cannot be listed ({error.strerror}): mend or remove it") from error
    return found


def read_picture(path: str | Path, orientation: bool = True) -> tv_tensors.Image:
    """A picture as uint8 RGB, (3, H, W), turned as its EXIF ``orientation`` says (as OpenCV and mmcv do).

    The memory is laid out as pixels of three bytes (channels last), which is what the decoder gives and what the
    resize of ``transforms`` is fastest with.

    Raises:
        InputError: The file is missing, truncated, no picture, or has more than 8 bits per channel.
    """
    data = _read_bytes(path)
    if image := _fast_picture(data, orientation):
        return tv_tensors.Image(image[0])
    try:
        with Image.open(io.BytesIO(data)) as file:
            if file.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path} has more than 8 bits per channel (mode {file.mode}): convert it to an 8-bit picture"
                )
            turned = ImageOps.exif_transpose(file) if orientation else file
            pixels = np.array(turned.convert("RGB"))
    except InputError:
        raise
    except _REFUSALS as error:
        raise InputError(_unreadable(path, error)) from error
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def read_mask(path: str | Path) -> torch.Tensor:
    """A mask of class numbers as it stands in the file, uint8, (H, W); of a palette picture, the indices.

    Raises:
        InputError: The file is missing, truncated, no picture, or has several channels or more than 8 bits.
    """
    data = _read_bytes(path)
    header = _png_header(data)
    if decode_png and header == (8, _GREY):
        try:
            return decode_png(_as_tensor(data), ImageReadMode.UNCHANGED)[0]
        except RuntimeError:
            pass  # damaged: Pillow's error says how
    try:
        with Image.open(io.BytesIO(data)) as file:
            mode, labels = file.mode, np.array(file)
    except _REFUSALS as error:
        raise InputError(_unreadable(path, error)) from error
    if mode not in ("L", "P", "1"):
        kind = "16-bit" if mode.startswith("I") else mode
        raise InputError(
            f"{path} is a {kind} picture: a mask needs one 8-bit channel of class numbers (greyscale or palette PNG)"
        )
    if header and header[1] == _GREY and header[0] in (2, 4):
        labels //= 255 // (2 ** header[0] - 1)  # Pillow stretches 2 and 4 bits to the range 0..255
    return torch.from_numpy(labels.astype(np.uint8, copy=False))


def _fast_picture(data: bytes, orientation: bool) -> list[torch.Tensor]:
    """The picture by torchvision's decoders (twice as fast as Pillow, same pixels), or [] if Pillow must read it."""
    try:
        if decode_jpeg and data[:2] == b"\xff\xd8":
            return [decode_jpeg(_as_tensor(data), ImageReadMode.RGB, apply_exif_orientation=orientation)]
        if decode_png and _png_header(data) == (8, _RGB):
            return [decode_png(_as_tensor(data), ImageReadMode.RGB, apply_exif_orientation=orientation)]
    except RuntimeError:
        pass  # damaged, or a kind that only Pillow reads
    return []


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _png_header(data: bytes) -> tuple[int, int] | None:
    """Bit depth and colour type of a PNG file, or None for another format."""
    return (data[24], data[25]) if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 else None


def _unreadable(path: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"{path} is not a picture or is damaged from the start: download or copy it again, or remove it"
    if isinstance(error, Image.DecompressionBombError):
        return f"{path} is too large ({error}): cut it into tiles"
    return f"{path} is truncated or damaged ({error}): download or copy it again, or remove it"
