"""Images of other than three channels: the bands of a file as they are, without any colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ImageOps
from PIL.Image import Image

from lk_downstream import trust
from lk_downstream.errors import InputError


def read_bands(path: str | Path, data: bytes, number: int, orientation: bool = True) -> np.ndarray:
    """The bands of an image, such as red, green, blue and alpha of a PNG file or four bands of a TIFF file.

    Where a TIFF file has ``number`` pages of one band, these are the bands.

    Args:
        path: The file, for messages.
        data: What it holds.
        number: Of the bands.
        orientation: Turn it as its EXIF data say.

    Returns:
        uint8 (H, W, number).

    Raises:
        DamagedFile: The file is truncated or no image.
        InputError: It is too large, or has another number of bands, or more than 8 bits in each.
    """
    with trust.open_image(path, data) as file:
        mode, pages = file.mode, getattr(file, "n_frames", 1)
        if mode.startswith(("I", "F")):
            raise InputError(f"{path} has more than 8 bits per channel (mode {mode}): convert it to an 8-bit image")
        if file.format == "TIFF" and number == pages > 1 and mode == "L":
            return _pages(path, file, number)
        if mode in ("P", "1"):
            file = file.convert("RGBA" if "transparency" in file.info else "RGB" if mode == "P" else "L")
        pixels = np.array(ImageOps.exif_transpose(file) if orientation else file)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] != number:
        raise InputError(
            f"{path} has {pixels.shape[2]} channels ({mode}{f', {pages} pages' if pages > 1 else ''}), but "
            f"model.backbone.in_chans is {number}: set it to that, or write all images with {number} bands"
        )
    return pixels


def _pages(path: str | Path, file: Image, number: int) -> np.ndarray:
    width, height = file.size
    trust.check_pixels(path, width * number, height)
    bands = []
    for page in range(number):
        file.seek(page)
        if file.size != (width, height) or file.mode != "L":
            raise InputError(f"{path}: page {page} is {file.size} ({file.mode}), the first {(width, height)} (L)")
        bands.append(np.array(file))
    return np.stack(bands, axis=-1)
