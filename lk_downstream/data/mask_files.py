"""Masks of class numbers from files: grey levels, palettes, colours, 16 bits, NumPy arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lk_downstream import trust
from lk_downstream.data.classes import Palette
from lk_downstream.data.labels import ranges
from lk_downstream.data.reading import file_bytes
from lk_downstream.errors import InputError, some

if TYPE_CHECKING:
    from PIL.Image import Image

# Lossless: a JPEG would change class numbers.
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".npy")

_GREY = 0  # colour type of a PNG header


class Colours:
    """What the colours of a mask stand for: the first for the value 0, the second for 1, and so on.

    Args:
        colours: Red, green and blue of each, 256 at most.

    Raises:
        InputError: A colour is none, or stands twice.
    """

    def __init__(self, colours: Sequence[Sequence[int]]):
        self.colours = [tuple(colour) for colour in colours]
        if not 1 <= len(self.colours) <= 256:
            raise InputError(f"mask_colours has {len(self.colours)} colours: give 1 to 256")
        for colour in self.colours:
            if len(colour) != 3 or not all(0 <= level <= 255 for level in colour):
                raise InputError(f"mask_colours has {list(colour)}: a colour is red, green and blue, 0 to 255 each")
            if self.colours.count(colour) > 1:
                raise InputError(f"mask_colours has {list(colour)} twice: leave it to one class")
        codes = _codes(np.array(self.colours, dtype=np.uint8))
        self.order = np.argsort(codes).astype(np.uint8)
        self.codes = codes[self.order]

    def values(self, path: str | os.PathLike, pixels: np.ndarray) -> np.ndarray:
        """The values of colours uint8 (H, W, 3), uint8 (H, W).

        Raises:
            InputError: A colour is not among those given.
        """
        codes = _codes(pixels)
        places = np.searchsorted(self.codes, codes).clip(max=len(self.codes) - 1)
        if (wrong := self.codes[places] != codes).any():
            odd, counts = np.unique(codes[wrong], return_counts=True)
            names = [
                f"{[int(odd[at]) >> shift & 255 for shift in (16, 8, 0)]} ({counts[at]} pixels)"
                for at in np.argsort(-counts)
            ]
            raise InputError(
                f"{path} has {len(odd)} colours that are none of its {len(self.codes)} classes: {some(names, 3)}; "
                "add them to mask_colours (label_map may leave them unlabelled), or mend the mask: none is guessed"
            )
        return self.order[places]


def _codes(colours: np.ndarray) -> np.ndarray:
    """A number for each colour, int32."""
    return (colours.astype(np.int32) << np.array([16, 8, 0], dtype=np.int32)).sum(-1, dtype=np.int32)


def read_colours(path: Path) -> Palette:
    """The colours of a text file with one a line beside a name, as CamVid's ``label_colors.txt``, or of a CSV file.

    Raises:
        InputError: The file cannot be read, or a line has no colour.
    """
    try:
        lines = [line.strip() for line in trust.read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the colours of masks from {path} ({error}): write R G B NAME a line") from error
    colours = []
    for number, line in enumerate(lines):
        words = re.split(r"[\s,;]+", line)
        found = next((part for part in (words[:3], words[-3:]) if "".join(part).isdigit() and len(part) == 3), None)
        if found:
            colours.append(tuple(map(int, found)))
        elif number:  # else it is a header
            raise InputError(f"{path} has no colour (red, green, blue) in the line {line!r:.60}")
    return colours


def read_mask(path: str | Path, colours: Colours | None = None, data: bytes | None = None) -> torch.Tensor:
    """A mask as it stands in the file, uint8, (H, W); of a palette image, the indices.

    ``data`` is what the file holds, where it is no file of its own.

    Read are images of grey levels or palette indices of 1 to 16 bits, such images with three equal channels or with an
    opaque alpha channel, NumPy arrays (``.npy``) of whole numbers, and, by ``colours``, images of any of these kinds
    whose colours are classes.

    Raises:
        DamagedFile: The file is truncated or no image.
        InputError: The file is missing, too large or lossy, has a value above 255 or a colour that stands for none.
    """
    if data is None and str(path).lower().endswith(".npy"):
        return torch.from_numpy(_small(path, _read_array(path)))
    data = file_bytes(path) if data is None else data
    with trust.open_image(path, data) as file:
        mode, kind = file.mode, file.format
        _refuse_lossy(path, file)
        if mode in ("LA", "PA", "RGBA") and file.getchannel("A").getextrema() != (255, 255):
            raise InputError(f"{path} is transparent in places, which is no class: save it without an alpha channel")
        if colours and not mode.startswith(("I", "F")):
            return torch.from_numpy(colours.values(path, np.array(file.convert("RGB"))))
        labels = np.array(file)
    if mode in ("RGB", "RGBA"):
        if (labels[..., :1] != labels[..., 1:3]).any():
            raise InputError(
                f"{path} is a {mode} image: a mask needs one channel of class numbers (greyscale or palette PNG), or, "
                "if its colours are classes, set palette and mask_colours"
            )
    elif mode not in ("L", "P", "1", "LA", "PA") and not mode.startswith("I"):
        raise InputError(f"{path} is a {mode} image: a mask needs one channel of class numbers (greyscale or palette)")
    labels = labels if labels.ndim == 2 else labels[..., 0]
    header = (data[24], data[25]) if kind == "PNG" else None
    if header in ((2, _GREY), (4, _GREY)):
        labels //= 255 // (2 ** header[0] - 1)  # Pillow stretches 2 and 4 bits to the range 0..255
    return torch.from_numpy(_small(path, labels))


def read_codes(path: str | Path) -> np.ndarray:
    """The numbers that the colours of an image stand for, R + 256 G + 65536 B, int32, (H, W), as COCO's panoptic ids.

    Raises:
        DamagedFile: The file is truncated or no image.
        InputError: The file is missing, too large or lossy, or has no colours.
    """
    with trust.open_image(path, file_bytes(path)) as file:
        _refuse_lossy(path, file)
        if file.mode != "RGB":
            raise InputError(f"{path} is a {file.mode} image: ids are written as the colours of an RGB image")
        return _codes(np.array(file)[..., ::-1])


def _refuse_lossy(path: str | Path, file: Image) -> None:
    if file.format not in trust.LOSSLESS or "jpeg" in str(file.info.get("compression")):
        raise InputError(
            f"{path} holds a {file.format} image, whatever its name says, and {file.format} changes pixels, that is "
            "classes: write the mask anew, as PNG"
        )


def _read_array(path: str | Path) -> np.ndarray:
    try:
        array = trust.read_array(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no array of NumPy ({error}): write it by numpy.save") from error
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise InputError(
            f"{path} has the shape {list(array.shape)} and the type {array.dtype}: a mask is an array (height, width) "
            "of whole numbers, such as mask.astype(numpy.uint8)"
        )
    return array


def _small(path: str | Path, labels: np.ndarray) -> np.ndarray:
    """The labels in 8 bits.

    Raises:
        InputError: A value is below 0 or above 255.
    """
    wide = labels.dtype.itemsize > 1 or labels.dtype.kind == "i"
    if wide and labels.size and not (labels.min() >= 0 and labels.max() <= 255):
        wrong = np.unique(labels[(labels < 0) | (labels > 255)])
        raise InputError(
            f"{path} is a {8 * labels.dtype.itemsize}-bit image with the values {ranges(wrong[:50])}: "
            "the numbers of classes are 0 to 254, and 255 is unlabelled (instance ids are no classes)"
        )
    return np.require(labels, np.uint8, ["C", "W"])
