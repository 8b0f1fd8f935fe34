"""Images of any kind, as uint8 (C, H, W): files, encoded bytes, Pillow's, arrays, tensors, many of these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors

from lk_downstream.archives import Place
from lk_downstream.data.image_folder import PARQUET, ImageFolder
from lk_downstream.data.reading import load_image
from lk_downstream.data.rows import Rows, open_rows
from lk_downstream.data.video import is_video, read_frames
from lk_downstream.errors import InputError
from lk_downstream.inference.arrays import shown

Layout = Literal["HWC", "CHW"]
Range = tuple[float, float] | None
KINDS = "a path, encoded bytes, an image of Pillow, an array, a tensor, or a list of these"


class Given(NamedTuple):
    """An image to predict on.

    Attributes:
        name: Of the file, or its place among those given.
        image: uint8 (C, H, W).
        source: The image as it is drawn, uint8 (H, W, 3), or what reads it again.
    """

    name: str
    image: Tensor
    source: np.ndarray | Callable[[], np.ndarray]


class Images(NamedTuple):
    """What a call is given: its images, read one after the other, and whether it was a single one."""

    images: Iterator[Given]
    single: bool


def read_images(x: Any, channels: int = 3, layout: Layout | None = None, value_range: Range = None) -> Images:
    """The images of ``x``, as uint8.

    * A path or a ``file://`` address: of an image file, of a folder, archive or Parquet file of them, or of a video.
    * ``bytes``: the content of an image file.
    * An image of Pillow's, of any mode with 8 bits; turned as its EXIF data say, as those of files are.
    * An array or tensor of uint8, or of floating point numbers from 0 to 1: (H, W), (H, W, C) or (C, H, W), which the
      number of channels tells apart; with one dimension more, a batch.
    * A list, or anything else to go through, of these.

    Args:
        x: See above.
        channels: That the model takes; where these are 3, grey images are taken, too.
        layout: Of arrays whose shape does not tell it, such as 3 x 3 x 3.
        value_range: Of files with more than 8 bits, see :func:`load_image`.

    Raises:
        InputError: At once or on the way: a kind, type, shape or value that is no image, or is one in two ways.
    """
    if layout not in (None, "HWC", "CHW"):
        raise InputError(f"layout is {layout!r}: it is 'HWC', 'CHW' or None")
    single = _is_single(x)
    return Images(_images(x, channels, layout, "" if single else None, value_range), single)


def _is_single(x: Any) -> bool:
    if isinstance(x, (str, os.PathLike)):
        return (path := _path(x)).is_file() and path.suffix.lower() != PARQUET and not is_video(path)
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim < 4
    return isinstance(x, (bytes, bytearray, memoryview, Image.Image))


def _images(x: Any, channels: int, layout: Layout | None, name: str | None, value_range: Range) -> Iterator[Given]:
    if isinstance(x, (str, os.PathLike)):
        yield from _files(_path(x), channels, value_range)
    elif isinstance(x, (bytes, bytearray, memoryview)):
        image = load_image(name or "the image", data=bytes(x), channels=channels, value_range=value_range)
        yield Given(name or "image", image.as_subclass(Tensor), shown(image))
    elif isinstance(x, Image.Image):
        image = _of_pillow(x, channels)
        yield Given(getattr(x, "filename", "") or name or "image", image, shown(image))
    elif isinstance(x, (np.ndarray, Tensor)):
        for number, image in enumerate(_of_array(x, channels, layout)):
            yield Given(name or (f"{number:06}" if x.ndim == 4 else "image"), image, shown(image))
    elif isinstance(x, Iterable) and not isinstance(x, dict):
        for number, item in enumerate(x):
            yield from _images(item, channels, layout, f"{number:06}", value_range)
    else:
        raise InputError(f"{type(x).__name__} is nothing to predict on: give {KINDS}")


class Opened(NamedTuple):
    """An image whose rows are read from the top to the bottom.

    Attributes:
        name: See :class:`Given`.
        rows: The image.
        path: Of its file, if it has one.
        source: See :class:`Given`.
    """

    name: str
    rows: Rows
    path: Path | None
    source: np.ndarray | Callable[[], np.ndarray]


def read_rows(
    x: Any, channels: int = 3, layout: Layout | None = None, value_range: Range = None
) -> tuple[Iterator[Opened], bool]:
    """As :func:`read_images`, with images that are not decoded whole where that can be avoided."""
    single = _is_single(x)
    return _rows(x, channels, layout, "" if single else None, value_range), single


def _rows(x: Any, channels: int, layout: Layout | None, name: str | None, value_range: Range) -> Iterator[Opened]:
    if isinstance(x, (str, os.PathLike)):
        folder = ImageFolder(_path(x), channels, value_range)
        for number, path in enumerate(folder.files):
            reread = lambda n=number: shown(folder[n]["image"])  # noqa: E731
            yield Opened(folder.names[number], open_rows(path, channels, value_range), path, reread)
    elif isinstance(x, (list, tuple)):
        for number, item in enumerate(x):
            yield from _rows(item, channels, layout, f"{number:06}", value_range)
    else:
        for given in _images(x, channels, layout, name, value_range):
            yield Opened(given.name, Rows(given.image), None, given.source)


def _path(x: str | os.PathLike) -> Path:
    if isinstance(x, str) and "://" in x:
        address = urlparse(x)
        if address.scheme != "file" or address.netloc not in ("", "localhost"):
            raise InputError(f"{x} is not fetched: download it, and give its path")
        x = url2pathname(address.path)
    return Place(x)


def _files(path: Path, channels: int, value_range: Range) -> Iterator[Given]:
    if is_video(path):
        for number, frame in enumerate(read_frames(path)):
            yield Given(f"{path.stem}_{number:06}", _of_array(frame, channels, "HWC")[0], frame)
        return
    folder = ImageFolder(path, channels, value_range)
    for number in range(len(folder)):
        item = folder[number]
        yield Given(item["name"], item["image"].as_subclass(Tensor), lambda n=number: shown(folder[n]["image"]))


def _of_pillow(image: Image.Image, channels: int) -> Tensor:
    if image.mode.startswith(("I", "F")):
        raise InputError(f"an image of Pillow's mode {image.mode} has more than 8 bits per channel: convert it to RGB")
    turned = ImageOps.exif_transpose(image)
    pixels = np.array(turned.convert("RGB") if channels == 3 else turned)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] != channels:
        raise InputError(f"an image of Pillow's mode {image.mode} has {pixels.shape[2]} channels, not {channels}")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _of_array(x: np.ndarray | Tensor, channels: int, layout: Layout | None) -> Tensor:
    """uint8 (N, C, H, W) of what may be one image or several."""
    what = f"{'a tensor' if isinstance(x, Tensor) else 'an array'} of shape {tuple(x.shape)} and type {x.dtype}"
    if not 2 <= x.ndim <= 4 or not all(x.shape):
        raise InputError(
            f"{what} is no image: give (H, W), (H, W, {channels}), ({channels}, H, W), or a batch of these"
        )
    if isinstance(x, tv_tensors.Image):
        layout = layout or "CHW"
    if isinstance(x, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that may not be written to, which nothing here does
            try:
                x = torch.from_numpy(np.ascontiguousarray(x.astype(x.dtype.newbyteorder("="), copy=False)))
            except TypeError:
                raise InputError(f"{what} holds no numbers that a tensor can hold: convert it to uint8") from None
    pixels = _as_bytes(x.detach().as_subclass(Tensor), what)
    if x.ndim == 2:
        pixels = pixels[None, None]
    else:
        pixels = pixels if x.ndim == 4 else pixels[None]
        first, last = (pixels.shape[place] in {channels, 1 if channels == 3 else channels} for place in (1, 3))
        if layout is None and first and last:
            raise InputError(f"{what} may have its channels first or last: say which by layout='CHW' or layout='HWC'")
        if not (last if layout == "HWC" else first if layout == "CHW" else first or last):
            raise InputError(
                f"{what} has no dimension of {channels} channels where they may stand ({layout or 'first or last'}): "
                + ("leave out those beyond red, green and blue" if channels == 3 else "give all that the model takes")
            )
        pixels = pixels.permute(0, 3, 1, 2) if layout == "HWC" or (layout is None and last) else pixels
    return pixels.expand(-1, channels, -1, -1) if pixels.shape[1] == 1 else pixels


def _as_bytes(x: Tensor, what: str) -> Tensor:
    if x.dtype == torch.uint8:
        return x.cpu()
    if not x.is_floating_point():
        raise InputError(f"{what} is neither uint8 nor floating point: bring its values to 0..255, as uint8")
    low, high = (value.item() for value in x.aminmax())
    if not 0 <= low <= high <= 1:  # nor with NaN
        raise InputError(
            f"{what} has values from {low:.4g} to {high:.4g}, which as floating point numbers must be from 0 to 1: "
            "divide values of 0..255 by 255 or convert them to uint8, and give images without normalisation"
        )
    return (x.cpu().to(torch.promote_types(x.dtype, torch.float32)) * 255).round_().to(torch.uint8)
