"""What is taken from files that other people have made, and how much of it.

Every file that comes from outside (images, annotations, results, class names, configs, checkpoints) is opened here and
nowhere else. They are data: nothing that they hold is run, imported or fetched, and a file that would take more memory
than a limit is refused before it is read. The limits can be raised by environment variables, which reach loader
processes on every system.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lk_downstream.errors import DamagedFile, InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import numpy as np
    from PIL.Image import Image
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile

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
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        from lk_downstream import archives  # which needs NumPy, and a help text does not

        if (found := archives.locate(path)) is None:
            raise
        return found[0].read(found[1], limit(most))
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


def size(path: str | os.PathLike) -> int:
    """Bytes of a file; 0 of one within an archive.

    Raises:
        OSError: There is none.
    """
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        from lk_downstream import archives

        if archives.locate(path) is None:
            raise
        return 0


def digest(path: str | os.PathLike) -> bytes:
    """A check sum of a file's content, 16 bytes, by which every change is noticed.

    Raises:
        OSError: The file cannot be read.
    """
    checksum = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum.update(block)
    return checksum.digest()


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


def read_json_lines(path: str | os.PathLike) -> list[Any]:
    """The values of a text file with one of JSON a line, in UTF-8.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`.
        ValueError: It is not JSON; the message says where.
    """
    try:
        return [json.loads(line) for line in read_bytes(path).decode("utf-8-sig").split("\n") if line.strip()]
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


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of a file of NumPy's (``.npy``), which is read as numbers: what is pickled is refused.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`, or the array has more elements than an image may have pixels.
        ValueError: It is no such file, or holds objects, or fewer or more bytes than it says.
    """
    import numpy as np

    data = read_bytes(path)
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"version {version}")
    try:
        shape, columns_first, dtype = headers[version](file)
    except Exception as error:  # whatever a damaged header leads to
        raise ValueError(str(error) or type(error).__name__) from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    check_pixels(path, math.prod(shape), 1)
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{len(data) - file.tell()} bytes for the shape {shape} of {dtype}")
    return np.ndarray(shape, dtype, data, file.tell(), order="F" if columns_first else "C")


def read_xml(path: str | os.PathLike) -> Element:
    """The root of an XML file that declares nothing of its own: entities could stand for texts without end, or files.

    Raises:
        OSError: As :func:`read_bytes`.
        InputError: As :func:`read_bytes`.
        ValueError: It is not XML, or has such declarations; the message says where.
    """
    from xml.etree import ElementTree

    class Plain(ElementTree.TreeBuilder):
        def doctype(self, name: str, public: str | None, system: str | None) -> None:
            raise ValueError("it has a document type of its own, which is not read")

    data = read_bytes(path, MAX_TEXT_BYTES)
    if b"<!ENTITY" in data or "<!ENTITY".encode("utf-16-le") in data or "<!ENTITY".encode("utf-16-be") in data:
        raise ValueError("it declares entities, which are not read")
    try:
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=Plain()))
    except (ElementTree.ParseError, LookupError, RecursionError) as error:
        raise ValueError(str(error)) from error


@contextmanager
def open_parquet(path: str | os.PathLike) -> Iterator[ParquetFile]:
    """A Parquet file; what its reader raises inside becomes a sentence.

    Raises:
        DamagedFile: It is none, or is damaged.
        InputError: It is not there, or pyarrow is not installed.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            f"{path} is read by pyarrow, which is not installed: pip install 'lk_downstream[parquet]', or pip install "
            "pyarrow"
        ) from error
    try:
        if not os.path.isfile(path):
            raise InputError(f"there is no file {path}")
        with ParquetFile(os.fspath(path), pre_buffer=False) as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DamagedFile(f"{path} is no Parquet file or is damaged ({what}): download or copy it again") from error


def read_parquet(path: str | os.PathLike, column: str, group: int | None = None) -> Table:
    """A column of a Parquet file, or a field of it such as ``image.path``.

    Args:
        path: The file.
        column: Name of the column.
        group: Number of the row group; None: all.

    Raises:
        DamagedFile: See :func:`open_parquet`.
        InputError: Likewise, or a row group has more bytes than the limit.
    """
    with open_parquet(path) as file:
        groups = range(file.metadata.num_row_groups) if group is None else [group]
        # Not of the column alone: where its statistics are damaged, to ask for its size ends the process.
        taken = max((file.metadata.row_group(number).total_byte_size for number in groups), default=0)
        if taken > (most := limit(MAX_FILE_BYTES)):
            raise InputError(
                f"{path}: a row group takes {taken} bytes, more than the {most} that are read: write smaller ones, or "
                f"raise {MAX_FILE_BYTES[0]}"
            )
        table = file.read_row_groups(groups, [column], use_threads=False)
        table.validate(full=True)  # places of values, and that texts are UTF-8
        return table


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


def read_tiff(path: str | os.PathLike, data: bytes) -> list[tuple[np.ndarray, str]]:
    """The pages of a TIFF file of any number of bands and bits, and the axes of each, such as ``YXS``.

    Pages after the first count if they are as large as it, as bands are, and small copies of an image are not.

    Raises:
        DamagedFile: It is none, or is damaged.
        InputError: It has more pixels than the limit, is packed in a way that takes another library, or tifffile is not
            installed.
    """
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise InputError(
            f"{path} has more bands or bits than Pillow reads; tifffile, which is not installed, reads it: "
            "pip install 'lk_downstream[tiff]', or pip install tifffile"
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files is said below
    try:
        with TiffFile(io.BytesIO(data)) as file:
            pages = [page for page in file.pages if page.shape == file.pages[0].shape]
            pixels = sum(page.size for page in pages)
            check_pixels(path, pixels // max(1, pages[0].imagelength), pages[0].imagelength)
            return [(page.asarray(), page.axes) for page in pages]
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if "imagecodecs" in what:
            raise InputError(
                f"{path} is packed in a way that tifffile reads by imagecodecs: pip install imagecodecs"
            ) from error
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


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive with a directory that can be found."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # by some versions of Python
        return False


def check_archive(path: Path) -> None:
    """Refuse a checkpoint whose archive would unpack to far more than its size; torch itself packs nothing.

    Raises:
        InputError: It would.
        Exception: Whatever a damaged archive leads to.
    """
    if not is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > path.stat().st_size + limit(MAX_EXPANSION_BYTES):
        raise InputError(
            f"{path} would unpack from {path.stat().st_size} to {unpacked} bytes, which no weight file does: if you "
            f"trust it, raise {MAX_EXPANSION_BYTES[0]}"
        )


def load_pickle(path: Path, stand_ins: Iterable[tuple[type, str]] = ()) -> Any:
    """What a file of ``torch.save`` holds, on the CPU: tensors, plain values, and stand-ins for classes.

    Args:
        path: The file.
        stand_ins: What is made in place of a class or function, and the full name of that.

    Raises:
        InputError: See :func:`check_archive`.
        Exception: Whatever a damaged file, or one that names other classes, leads to.
    """
    import torch

    check_archive(path)
    # Said outright, as the default can be switched off by an environment variable.
    with torch.serialization.safe_globals(list(stand_ins)):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_safetensors(path: Path) -> dict[str, Any]:
    """Tensors of a file of safetensors, on the CPU.

    Raises:
        Exception: Whatever a damaged file leads to.
    """
    from safetensors.torch import load_file

    return load_file(path)
