"""Rows of Parquet files, any one in any order, without the other row groups of its file."""

from __future__ import annotations

import bisect
import json
import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lk_downstream import trust
from lk_downstream.data.parquet_places import Places
from lk_downstream.errors import DamagedFile, InputError, near_names, some

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Schema, Table

# Where the files of a split lie; {split} is any of its names.
PATTERNS = ("data/{split}-*.parquet", "{split}-*.parquet", "{split}.parquet", "{split}/*.parquet")
OTHER_NAMES = {"val": ("val", "validation", "valid"), "train": ("train", "training")}
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
MOST_KEPT = 4  # columns of a row group in a process
MOST_BYTES = 2**26  # of them together, but for the last


def find_shards(root: Path, split: str, files: str | None = None) -> list[Path]:
    """The Parquet files of a split, in the order of their names; of a root that is a file, that.

    Args:
        root: The file, or the folder that they lie in.
        split: Name of the split; ``val`` is ``validation`` where that is there.
        files: Pattern of their paths below ``root``, in which ``{split}`` stands for the split; None: the usual ones.

    Raises:
        InputError: There are none, or some of those that a name like ``train-00000-of-00123.parquet`` counts.
    """
    if root.is_file():
        return [root]
    for pattern in (files,) if files else PATTERNS:
        for name in OTHER_NAMES.get(split, (split,)):
            if found := sorted(root.glob(pattern.replace("{split}", name))):
                _refuse_gaps(found)
                return found
    paths = [path for depth in ("*.parquet", "*/*.parquet") for path in root.glob(depth)]
    there = sorted(path.relative_to(root).as_posix() for path in paths)
    splits = dict.fromkeys(re.split(r"-\d|\.parquet", Path(path).name)[0] for path in there)
    hint = near_names(split, splits) or (f"; there are {some(there, 3)}: set files" if there else "")
    wanted = files or f"{PATTERNS[0]} or {PATTERNS[2]}"
    raise InputError(f"{root} has no Parquet files of the split {split!r}, such as {wanted}{hint}")


def _refuse_gaps(paths: list[Path]) -> None:
    counted = [re.search(r"-(\d+)-of-(\d+)\.parquet$", path.name) for path in paths]
    if all(counted) and len(paths) < (total := int(counted[0][2])):
        lacking = min(set(range(total)) - {int(match[1]) for match in counted})
        raise InputError(
            f"{paths[0].parent} has {len(paths)} of {total} files of {paths[0].name[: counted[0].start()]}, and lacks "
            f"number {lacking:05}: download it"
        )


class Groups(NamedTuple):
    """The row groups of some files, in their order.

    Attributes:
        first: int64 (G + 1,): group i has the rows ``first[i]`` to ``first[i + 1] - 1``.
        file: int64 (G,), the number of its file.
        number: int64 (G,), its own in that file.
    """

    first: np.ndarray
    file: np.ndarray
    number: np.ndarray


class Shards:
    """The rows of Parquet files of one schema, one after the other.

    A cell is read with its column of a row group, of which a process keeps the last ``MOST_KEPT``: some 10 MB each
    where 100 images are in a group. Images are read alone once their group was read, see :class:`Places`. No file stays
    open, so that a forked process shares nothing.

    Args:
        paths: The files.

    Raises:
        InputError: pyarrow is not installed, or a file is damaged or of another schema.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[tuple[int, str], Table] = OrderedDict()
        self._places: dict[tuple[int, str], Places] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_kept", "_lock", "_places")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @cached_property
    def schema(self) -> Schema:
        """The columns of the first file."""
        with trust.open_parquet(self.paths[0]) as file:
            assert file.schema_arrow.names is not None  # they are texts
            return file.schema_arrow

    @cached_property
    def features(self) -> dict[str, Any]:
        """What Hugging Face's ``datasets`` has noted of the columns; empty if it has not written the files."""
        try:
            found = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def groups(self) -> Groups:
        """See :class:`Groups`; of every file the end alone is read."""
        rows: list[tuple[int, int, int]] = []
        for at, path in enumerate(self.paths):
            with trust.open_parquet(path) as file:
                if lacking := set(self.schema.names) - set(file.schema_arrow.names):
                    raise InputError(f"{path} has no column {some(lacking)}, which {self.paths[0]} has: remove it")
                rows += [(file.metadata.row_group(n).num_rows, at, n) for n in range(file.metadata.num_row_groups)]
        counts, files, numbers = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        return Groups(np.append(0, counts.cumsum()), files, numbers)

    def __len__(self) -> int:
        return int(self.groups.first[-1])

    @cached_property
    def starts(self) -> array[int]:
        """The first row of each row group, and the number of rows; of these single ones are looked for."""
        return array("q", self.groups.first.tobytes())

    @cached_property
    def file_starts(self) -> np.ndarray:
        """The first row of each file."""
        return self.groups.first[np.searchsorted(self.groups.file, np.arange(len(self.paths)))]

    def place(self, row: int) -> tuple[int, int]:
        """The group of a row, and the row's number in it."""
        group = bisect.bisect_right(self.starts, row) - 1
        return group, row - self.starts[group]

    def path(self, row: int) -> Path:
        """What stands for a row in messages: its file, and its number there."""
        file = int(self.groups.file[self.place(row)[0]])
        return self.paths[file] / str(row - int(self.file_starts[file]))

    def name(self, row: int) -> str:
        """As :meth:`path`, without the folder of the file and its suffix, for results."""
        path = self.path(row)
        return f"{path.parent.stem}/{path.name}"

    def value(self, row: int, column: str) -> Any:
        """A cell as a value of Python's own.

        Raises:
            InputError: See :func:`lk_downstream.trust.read_parquet`.
        """
        group, at = self.place(row)
        return self._group(group, column).column(column)[at].as_py()

    def column(self, column: str) -> ChunkedArray:
        """A whole column, such as that of the labels.

        Raises:
            InputError: See :func:`lk_downstream.trust.read_parquet`.
        """
        import pyarrow as arrow

        parts = [trust.read_parquet(path, column).column(column) for path in self.paths]
        return arrow.chunked_array([chunk for part in parts for chunk in part.chunks], self.schema.field(column).type)

    def names(self, column: str) -> list[str]:
        """Of each row the ``path`` that stands beside its image, if all are there and differ; else its :meth:`name`."""
        kind = self.schema.field(column).type
        if kind.num_fields and kind.get_field_index("path") >= 0:
            tables = [trust.read_parquet(path, f"{column}.path") for path in self.paths]
            found = [row["path"] for table in tables for row in table.column(column).to_pylist() if row]
            if len(set(found)) == len(self) and all(isinstance(path, str) and path for path in found):
                return found
        return [self.name(row) for row in range(len(self))]

    def image(self, row: int, column: str) -> bytes:
        """The bytes of an image: those of the column, or of its field ``bytes``.

        Raises:
            InputError: There are none, or see :func:`lk_downstream.trust.read_parquet`.
        """
        group, at = self.place(row)
        places, first = self._places_of(group, column)
        data = None if (group, column) in self._kept else places.read(first + at)
        if data is None:
            cells = self._group(group, column).column(column)
            data = _bytes(cells[at].as_py())
            if not places.know(first):
                places.fill(first, (_bytes(cell.as_py()) for cell in cells), int(self.groups.number[group]))
                alone = places.read(first + at) is not None
                with self._lock:
                    if alone and self._kept_bytes() > MOST_BYTES:
                        self._kept.pop((group, column), None)  # its values are read alone from now on
        if not isinstance(data, bytes):
            raise InputError(f"{self.path(row)} has no bytes in its column {column}: images within the file are read")
        return data

    def _places_of(self, group: int, column: str) -> tuple[Places, int]:
        """Where the values of a column lie in the file of a group, and the group's first row in it."""
        file = int(self.groups.file[group])
        if (places := self._places.get((file, column))) is None:
            kind = self.schema.field(column).type
            inner = kind.num_fields and kind.get_field_index("bytes") >= 0
            places = Places(self.paths[file], f"{column}.bytes" if inner else column)
            self._places[file, column] = places
        return places, self.starts[group] - int(self.file_starts[file])

    def _group(self, group: int, column: str) -> Table:
        key = (group, column)
        with self._lock:  # masks are read by threads
            if key not in self._kept:
                path, number = self.paths[self.groups.file[group]], int(self.groups.number[group])
                table = trust.read_parquet(path, column, number)
                if table.num_rows != (rows := self.starts[group + 1] - self.starts[group]):
                    raise DamagedFile(
                        f"{path} is damaged (row group {number} has {table.num_rows} of {rows} rows of {column}): "
                        "download or copy it again"
                    )
                self._kept[key] = table
                while len(self._kept) > MOST_KEPT or (self._kept_bytes() > MOST_BYTES and len(self._kept) > 1):
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _kept_bytes(self) -> int:
        return sum(table.nbytes for table in self._kept.values())


def _bytes(cell: Any) -> Any:
    """What an image's cell holds of it."""
    return cell.get("bytes") if isinstance(cell, dict) else cell


def column(shards: Shards, wanted: str | None, usual: Iterable[str], option: str) -> str:
    """The name of a column: the one wanted, or the first of the usual ones that there is.

    Raises:
        InputError: There is none.
    """
    there = shards.schema.names
    for name in [wanted] if wanted else usual:
        if name in there:
            return name
    hint = near_names(wanted or option, there) or f"; it has {some(there)}"
    raise InputError(f"{shards.paths[0]} has no column {wanted or option}{hint}: set {option} to one of its columns")


def image_column(shards: Shards, wanted: str | None = None) -> str:
    """The name of the column of images.

    Raises:
        InputError: There is none.
    """
    return column(shards, wanted, [*noted_images(shards), *IMAGE_COLUMNS], "image")


def noted_images(shards: Shards) -> list[str]:
    """The columns that are noted as images."""
    return [name for name, feature in shards.features.items() if kind_of(feature) == "Image"]


def kind_of(feature: Any) -> Any:
    """What kind of column is noted, such as ``Image``."""
    return feature.get("_type") if isinstance(feature, dict) else None
