"""Images of other than three channels, or of more than 8 bits: the bands of a file as they are, without any colours."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import ImageOps
from PIL.Image import Image

from lk_downstream import trust
from lk_downstream.errors import DamagedFile, InputError

logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it speaks of files that tifffile then reads

BITS = 258  # a TIFF file's tag
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # what its files begin with


def read_bands(
    path: str | Path,
    data: bytes,
    number: int,
    orientation: bool = True,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """The bands of an image, such as red, green, blue and alpha of a PNG file or thirteen bands of a TIFF file.

    Where a TIFF file has ``number`` pages of one band, these are the bands.

    Args:
        path: The file, for messages.
        data: What it holds.
        number: Of the bands; a single one counts as three equal ones.
        orientation: Turn it as its EXIF data say.
        value_range: Values that become 0 and 255, of bands with more than 8 bits; those beyond become 0 or 255, too.

    Returns:
        uint8 (H, W, number).

    Raises:
        DamagedFile: The file is truncated or no image.
        InputError: It is too large, or has another number of bands, or more than 8 bits in each and no range is given.
    """
    pixels, what = _pixels(path, data, number, orientation)
    if pixels.shape[2] == 1 and number == 3:
        pixels = pixels.repeat(3, axis=2)
    if pixels.shape[2] != number:
        raise InputError(
            f"{path} has {pixels.shape[2]} channels ({what}), but model.backbone.in_chans is {number}: set it to that, "
            f"or write all images with {number} bands"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if value_range is None:
        raise InputError(
            f"{path} has more than 8 bits per channel ({what}, values from {pixels.min()} to {pixels.max()}): set "
            "data.value_range to the values that become 0 and 255, or convert it to an 8-bit image"
        )
    low, high = value_range
    scaled = np.nan_to_num((pixels.astype(np.float32) - low) * (255 / (high - low)), nan=0.0)
    return scaled.round().clip(0, 255).astype(np.uint8)


def is_deep(file: Image) -> bool:
    """Whether an image has more than 8 bits per channel, of which Pillow may read the highest 8 alone."""
    bits = file.tag_v2.get(BITS, (1,)) if file.format == "TIFF" else (1,)
    return file.mode.startswith(("I", "F")) or max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _pixels(path: str | Path, data: bytes, number: int, orientation: bool) -> tuple[np.ndarray, str]:
    """The values of a file, (H, W, bands), and what it is in words."""
    try:
        with trust.open_image(path, data) as file:
            mode, pages = file.mode, getattr(file, "n_frames", 1)
            several, single = file.format == "TIFF" and number == pages > 1, mode.startswith(("I", "F"))
            if several and mode == "L":
                return _pages(path, file, number), mode
            if not is_deep(file) or (single and not several):
                if mode in ("P", "1"):
                    file = file.convert("RGBA" if "transparency" in file.info else "RGB" if mode == "P" else "L")
                pixels = np.array(ImageOps.exif_transpose(file) if orientation else file)
                pixels = pixels[..., None] if pixels.ndim == 2 else pixels
                return pixels, f"{mode}{f', {pages} pages' if pages > 1 else ''}"
    except DamagedFile:
        if not data.startswith(TIFF):
            raise
    parts = trust.read_tiff(path, data)  # of more bands or bits than Pillow has
    bands = []
    for values, axes in parts if len(parts) == number else parts[:1]:
        if values.ndim != len(axes) or axes not in ("YX", "YXS", "SYX") or values.dtype.kind not in "uif":
            raise InputError(
                f"{path} has the axes {axes} and values of type {values.dtype}, which is no image of bands"
            )
        bands.append(values[..., None] if axes == "YX" else values if axes == "YXS" else np.moveaxis(values, 0, 2))
    pixels = np.concatenate(bands, axis=2)
    return pixels, f"{pixels.dtype}, {len(parts)} pages"


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
