"""What is taken from files that other people have made, and how much of it.

Every file that comes from outside (images, annotations, results, class names, configs, checkpoints) is opened here and
nowhere else. They are data: nothing that they hold is run, imported or fetched, and a file that would take more memory
than a limit is refused before it is read. The limits can be raised by environment variables, which reach loader
processes on every system.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lk_downstream.errors import DamagedFile, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pixels of an image; Pillow's own limit. An image takes up to 9 bytes a pixel while it is read.
MAX_PIXELS = "LK_MAX_PIXELS", 178_956_970
# Bytes of an image, an annotation file or a results file. JSON takes up to 25 times its size in memory.
MAX_FILE_BYTES = "LK_MAX_FILE_BYTES", 2 * 2**30
# Bytes of class names or settings, which take up to 10 seconds a MiB to parse.
MAX_TEXT_BYTES = "LK_MAX_TEXT_BYTES", 2**20
# Bytes that a checkpoint may take in memory beyond the size of its file.
MAX_EXPANSION_BYTES = "LK_MAX_EXPANSION_BYTES", 2**28

# Formats of images. Not all of Pillow's: for some (EPS) it calls other programs.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM", "GIF")
# Scans of a progressive JPEG file, each of which costs a pass over all pixels; encoders write about ten.
MAX_SCANS = 100


def limit(which: tuple[str, int]) -> int:
    """The value of a limit, such as ``MAX_PIXELS``.

    Raises:
        InputError: The environment has something else than a number.
    """
    name, default = which
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise InputError(f"the environment variable {name} is {text!r}: it must be a number, such as 4e9") from None


def read_bytes(path: str | os.PathLike, most: tuple[str, int] = MAX_FILE_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: There is none, or it cannot be read.
        InputError: It is larger than the limit, or a pipe or a device, which may have no end.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        raise InputError(f"{path} is no file but a pipe or a device: copy its content to a file")
    if status.st_size > limit(most):
        raise InputError(
            f"{path} has {status.st_size} bytes, more than the {limit(most)} that are read: is it the right file? "
            f"If so, raise {most[0]}"
        )
    return path.read_bytes()


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`.
        ValueError: It is not JSON; the message says where.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def read_text(path: str | os.PathLike) -> str:
    """A text file in UTF-8, with or without a mark in front, as Windows writes it.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`.
        UnicodeDecodeError: It is not in UTF-8.
    """
    return read_bytes(path, MAX_TEXT_BYTES).decode("utf-8-sig")


def read_yaml(path: str | os.PathLike) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`.
        ValueError: It is not YAML; the message says where.
    """
    import yaml

    try:
        return yaml.load(read_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except RecursionError:
        raise ValueError("lists or settings are nested too deeply") from None
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError, KeyError, IndexError) as error:
        raise ValueError(str(error)) from error


def check_pixels(path: str | os.PathLike, width: int, height: int) -> None:
    """Refuse an image of more pixels than the limit.

    Raises:
        InputError: It has more.
    """
    if width * height > limit(MAX_PIXELS):
        raise InputError(
            f"{path} is too large ({width} x {height} pixels, the limit is {limit(MAX_PIXELS)}): "
            f"cut it into tiles, or raise {MAX_PIXELS[0]}"
        )


@contextmanager
def open_image(path: str | os.PathLike, data: bytes) -> Iterator[Image]:
    """The image whose file holds ``data``; what Pillow raises inside becomes a sentence.

    Raises:
        DamagedFile: It is no image, of a format that is not in ``FORMATS``, truncated or damaged.
        InputError: It has more pixels than the limit.
    """
    from PIL import Image, UnidentifiedImageError

    if MAX_PIXELS[0] in os.environ:
        Image.MAX_IMAGE_PIXELS = None  # the check below is the only one
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            check_pixels(path, *file.size)
            yield file
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise DamagedFile(
            f"{path} is not an image or is damaged from the start: download or copy it again, or remove it"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large ({error}): cut it into tiles, or raise {MAX_PIXELS[0]}") from error
    except Exception as error:  # whatever a damaged file makes Pillow raise
        what = str(error) or type(error).__name__
        raise DamagedFile(
            f"{path} is truncated or damaged ({what}): download or copy it again, or remove it"
        ) from error


def check_jpeg(path: str | os.PathLike, data: bytes) -> bool:
    """Whether the header of a JPEG file can be read; if not, Pillow has to judge.

    Raises:
        InputError: It has more pixels or more scans than the limits.
    """
    if (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise InputError(f"{path} has {scans} scans, which take hours to decode: save the image again")
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fills up
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame: precision, height, width
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            check_pixels(path, width, height)
            return True
        elif marker == 0xDA or 0xD0 <= marker <= 0xD9:
            break
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False
