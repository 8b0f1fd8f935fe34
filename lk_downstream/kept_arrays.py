"""Arrays that are found out of files once, and kept in files which all processes map."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

Arrays = TypeVar("Arrays", bound=tuple)  # a named tuple of them


def cache_folder() -> Path:
    """Where what was found out of files is kept: ``LK_CACHE``, by default ``~/.cache/lk_downstream``."""
    return Path(os.environ.get("LK_CACHE") or Path.home() / ".cache" / "lk_downstream")


def map_array(file: Path) -> np.ndarray:
    """The array of a file, which is read as far as it is looked at.

    Raises:
        OSError: There is none.
        ValueError: It is none.
        EOFError: It ends too soon.
    """
    return np.load(file, mmap_mode="r", allow_pickle=False)


class Mapped(NamedTuple):
    """Stands for a mapped array on its way to another process, which maps it too."""

    file: Path


def sendable(value: Any) -> Any:
    """What is sent to another process in place of a value: of a mapped array, where it lies."""
    return Mapped(Path(value.filename)) if isinstance(value, np.memmap) else value


def received(value: Any) -> Any:
    """The value that :func:`sendable` was given."""
    return map_array(value.file) if isinstance(value, Mapped) else value


def load_arrays(folder: Path, kind: type[Arrays]) -> Arrays | None:
    """Map the arrays that :func:`keep_arrays` has written; None where there are none."""
    try:
        parts = [map_array(folder / f"{name}.npy") for name in kind._fields]
    except (OSError, ValueError, EOFError):
        return None
    return kind(*parts)


def keep_arrays(folder: Path, arrays: Arrays) -> Arrays:
    """Write a named tuple of arrays in the place of another, so that no process sees half of them, and map them.

    Raises:
        OSError: They cannot be written there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        for name, array in arrays._asdict().items():
            np.save(part / f"{name}.npy", array, allow_pickle=False)
        os.chmod(part, 0o755)
        if folder.is_dir():
            folder.replace(part / "former")  # another process may be faster
        part.replace(folder)
        shutil.rmtree(folder / "former", ignore_errors=True)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if load_arrays(folder, type(arrays)) is None:
            raise
        return arrays
    return load_arrays(folder, type(arrays)) or arrays
