"""Masks of any size as tiled, compressed TIFF files, written row after row and gone on with after a kill.

Until the file is complete its rows lie in ``NAME.tif.parts``: a compressed file for each call, and what they are of.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lk_downstream import trust
from lk_downstream.errors import InputError
from lk_downstream.reports.files import write_json

TILE = 512  # pixels, the side of a tile of the file
# Of GeoTIFF: pixel scale, tie points, transformation, keys, and their numbers and texts; the mask has the same pixels.
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)


class MaskTiff:
    """A mask that comes a few rows at a time.

    Args:
        path: The file, ending with ``.tif`` or ``.tiff``.
        size: Height and width.
        about: What the mask is made of, as plain data: rows that were made of something else are not kept.

    Attributes:
        done: Rows from the top that are there already.

    Raises:
        InputError: The path has another ending, or tifffile is not installed.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], about: dict[str, Any]):
        try:
            import tifffile  # noqa: F401
        except ImportError as error:
            raise InputError(f"{path} is written by tifffile: pip install 'lk_downstream[large]'") from error
        self.path, self.size = Path(path), size
        if self.path.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"{path}: masks of large images are written as tiled TIFF; let the name end with .tif")
        self.folder = self.path.with_name(self.path.name + ".parts")
        about = {**about, "size": list(size)}
        listing = self.folder / "of.json"
        try:
            known = trust.read_json(listing)
        except (OSError, ValueError):
            known = None
        if known != about:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_json(listing, about)
        self.done = 0
        for first, data in self._parts():
            self.done = first + len(data)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Keep the rows from ``first`` on, uint8 (rows, W)."""
        path = self.folder / f"{first:09}.z"
        part = path.with_suffix(".part")
        part.write_bytes(zlib.compress(rows.tobytes(), 1))
        part.replace(path)
        self.done = first + len(rows)

    def finish(self, palette: np.ndarray, values: np.ndarray, source: Path | None = None) -> Path:
        """Write the file, and remove the parts.

        Args:
            palette: uint8 (256, 3), a colour for each value of the file.
            values: uint8 (256,), the value for each class index.
            source: A TIFF file of the same pixels, whose georeference is taken over.
        """
        import tifffile

        part = self.path.with_name(f"{self.path.name}.part")
        tifffile.imwrite(
            part,
            (values[tile] for tile in self._tiles()),
            shape=self.size,
            dtype=np.uint8,
            tile=(TILE, TILE),
            compression="zlib",
            photometric="palette",
            colormap=(palette.T.astype(np.uint16) * 257),
            extratags=_georeference(source),
            metadata=None,
            bigtiff=self.size[0] * self.size[1] > 2**31,
        )
        part.replace(self.path)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.path

    def _parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """The parts that follow one another without a gap; a damaged one is as good as none."""
        there = 0
        while there < self.size[0]:
            try:
                data = zlib.decompress((self.folder / f"{there:09}.z").read_bytes())
            except (OSError, zlib.error):
                return
            rows, left = divmod(len(data), self.size[1])
            if left or not rows:
                return
            yield there, np.frombuffer(data, np.uint8).reshape(rows, self.size[1])
            there += rows

    def _tiles(self) -> Iterator[np.ndarray]:
        height, width = self.size
        parts = self._parts()
        kept = np.empty((0, width), np.uint8)
        for top in range(0, height, TILE):
            wanted = min(TILE, height - top)
            while len(kept) < wanted:
                kept = np.concatenate((kept, next(parts)[1]))
            for left in range(0, width, TILE):
                tile = np.zeros((TILE, TILE), np.uint8)
                cut = kept[:wanted, left : left + TILE]
                tile[: cut.shape[0], : cut.shape[1]] = cut
                yield tile
            kept = kept[wanted:]


def _georeference(source: Path | None) -> list[tuple[int, int, int, Any, bool]]:
    """Tags of the source by which its pixels lie on the earth, as tifffile writes them."""
    import tifffile

    if source is None or source.suffix.lower() not in (".tif", ".tiff") or not source.is_file():
        return []
    try:
        with tifffile.TiffFile(source) as file:
            tags = file.pages[0].tags
            found = [tags[code] for code in GEO_TAGS if code in tags]
            return [(tag.code, int(tag.dtype), int(tag.count), tag.value, True) for tag in found]
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise InputError(
            f"the georeference of {source} cannot be read ({str(error) or type(error).__name__})"
        ) from error
