"""Reading and decoding 500 x 375 JPEG images in random order, from archives and Parquet files beside loose files.

Parquet files are read by the places of their values and, as before these are known, by the row group.
"""

from __future__ import annotations

import argparse
import os
import random
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.sides import Race
from lk_downstream.archives import Place
from lk_downstream.data import ClassParquet
from lk_downstream.data.reading import load_image

ROUNDS = 7
COPIES = 16  # of all images in a Parquet file, so that next to none is in a row group that was just read
# Row groups as Hugging Face's ``datasets`` has written them: 100 or 1000 rows by Snappy; of late 100 MB, not packed.
PARQUET = {
    "Parquet, 100 rows, Snappy": {"row_group_size": 100},
    "Parquet, 1000 rows, Snappy": {"row_group_size": 1000},
    "Parquet, as of late": {"row_group_size": 1500, "compression": "none", "use_dictionary": False},
}
BY_GROUPS = ", by the row group"  # as before anything is known of a file


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=400)


def races(options: argparse.Namespace) -> Iterator[Race]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LK_CACHE"] = f"{folder}/cache"
        places = write(Path(folder), options.images)
        times: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(options.rounds):
            order = random.sample(range(options.images), options.images)
            for name, place in places.items():
                numbers = order[:: 8 if name.endswith(BY_GROUPS) else 1]
                start = time.process_time()
                for number in numbers:
                    if isinstance(place, Path):
                        load_image(place / f"{number}.jpg")
                    else:
                        place[number + options.images * (number % COPIES)]
                times[name].append(1000 * (time.process_time() - start) / len(numbers))
    yield Race("reading images", "500 x 375 JPEG in random order, one thread, processor time", "ms/image", times)


def write(root: Path, count: int) -> dict[str, Path | ClassParquet]:
    """Generated images, loose, in archives, and in a Parquet file with 100 in a row group, as Hugging Face has them."""
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((500, 375)).save(root / "images" / f"{number}.jpg", quality=90)
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("compressed.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(root / name, "w", method) as archive:
            for path in (root / "images").iterdir():
                archive.write(path, path.name)
    with tarfile.open(root / "plain.tar", "w") as archive:
        archive.add(root / "images", "")
    archives = {"stored zip": "stored.zip", "compressed zip": "compressed.zip", "tar": "plain.tar"}
    places = {"loose files": root / "images", **{name: Place(root / file) for name, file in archives.items()}}
    cells = [{"bytes": (root / "images" / f"{number}.jpg").read_bytes(), "path": None} for number in range(count)]
    table = arrow.table({"image": cells * COPIES, "label": [0] * count * COPIES})
    for name, options in PARQUET.items():
        folder = root / name
        folder.mkdir()
        write_table(table, folder / "train.parquet", **options)
        places[name] = ClassParquet("train", str(folder))
        start = time.process_time()
        for row in range(count * COPIES):
            places[name].shards.image(row, "image")  # after which each has its place
        print(f"{name}: {1000 * (time.process_time() - start) / (count * COPIES):.2f} ms an image to find the places")
    for name in PARQUET:
        places[name + BY_GROUPS] = by_groups = ClassParquet("train", str(root / name))
        by_groups.shards._places_of = lambda group, column: (Nowhere(), 0)
    return places


class Nowhere:
    """Stands for places of values, and knows of none."""

    def read(self, row: int) -> None:
        """Nothing."""

    def know(self, row: int) -> bool:
        """That none is to be found."""
        return True
