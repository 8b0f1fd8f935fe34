"""Images that two splits share, by the content of their files."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL.Image import Image
from torch.utils.data import Dataset

from lk_downstream import archives, trust
from lk_downstream.data.class_counts import inner
from lk_downstream.errors import InputError

NEAR = 10  # bits of 256 in which images differ that are the same image
PLAIN = 25  # bits of 256 that are set, or not set, in an image that shows next to nothing
SECONDS = 3.0  # by which the start of a training becomes longer at most


def image_paths(dataset: Dataset) -> Iterator[str]:
    """Files of the images of data sets that have a method ``image_path``, or of parts of such."""
    for number in range(len(dataset)):
        owner, index = inner(dataset, number)
        yield os.fspath(owner.image_path(index))


def warn_of_same(train: Path, val: Path, rank: int = 0) -> bool:
    """Say that both splits are one file or folder, in the first process; whether they are."""
    same = train.exists() and val.exists() and train.samefile(val)
    if same and rank == 0:
        warnings.warn(
            f"both splits are {train}: the metrics will be those of images that were trained on, and say nothing of "
            "others; set data.val_split to images of their own",
            stacklevel=3,
        )
    return same


def warn_of_shared(train: Dataset, val: Dataset, rank: int = 0) -> None:
    """Say which images of the training are among those of the validation, in the first process."""
    if rank == 0 and (pairs := shared_images(image_paths(train), image_paths(val))):
        first, second = pairs[0]
        warnings.warn(
            f"{len(pairs)} images of the training are in the validation too, by the content of their files, such as "
            f"{first} and {second}: its metrics are too good by that, remove one of each",
            stacklevel=3,
        )


def shared_images(train: Iterable[str], val: Iterable[str], seconds: float = SECONDS) -> list[tuple[str, str]]:
    """Files of the training that a file of the validation, the second, holds the bytes of.

    Files of one size are compared by their hashes. What would take longer than ``seconds`` is left undone.

    Args:
        train: Paths of images.
        val: Likewise.
        seconds: The time for it, the last file excluded.
    """
    end, found = time.monotonic() + seconds, []
    by_size: dict[int | None, list[str]] = defaultdict(list, {None: []})
    hashes: dict[str, bytes] = {}
    for path in val:
        by_size[_size(path)].append(path)
        if time.monotonic() > end:
            return found
    del by_size[None]
    for path in train:
        for other in by_size.get(_size(path), ()):
            for file in {path, other} - hashes.keys():
                hashes[file] = _hash(file)
            if hashes[path] and hashes[path] == hashes[other]:
                found.append((path, other))
                break
        if time.monotonic() > end:
            break
    return found


def fingerprint(image: Image) -> np.ndarray:
    """Whether each of 16 x 16 places of an image is darker than the one to the right of it, uint8 (32,).

    The difference hash of N. Krawetz (2013), with 256 bits: it stays when an image is resized or saved with more loss.
    """
    grey = np.asarray(image.convert("L").resize((17, 16)), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def alike(one: np.ndarray, other: np.ndarray, most: int = NEAR) -> list[tuple[int, int]]:
    """Pairs of fingerprints (N, 32) and (M, 32) that differ in ``most`` bits or fewer.

    Those of plain areas, of which almost all bits are equal, say nothing and are left out.
    """
    bits = [np.bitwise_count(part).sum(1) for part in (one, other)]
    telling = [(count > PLAIN) & (count < 256 - PLAIN) for count in bits]
    found = []
    for number in np.flatnonzero(telling[0]):
        differ = np.bitwise_count(other ^ one[number]).sum(1)
        found += [(int(number), int(second)) for second in np.flatnonzero((differ <= most) & telling[1])]
    return found


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        archive, name = archives.locate(path) or (None, "")
        found = archive.find(name) if archive else None
        return int(archive.index.sizes[found[0], 1]) if found else None  # None: the reading will name it


def _hash(path: str) -> bytes:
    try:
        return hashlib.blake2b(trust.read_bytes(path), digest_size=16).digest()
    except (OSError, InputError):
        return b""
