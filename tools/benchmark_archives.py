"""Reading and decoding JPEG images from archives beside the same from loose files, in alternating rounds.

``python tools/benchmark_archives.py``: medians of processor time per image (500 x 375), in random order.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from lk_downstream.archives import Place
from lk_downstream.data.reading import read_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = write(Path(folder), options.images)
        times: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(options.rounds):
            order = random.sample(range(options.images), options.images)
            for name, place in places.items():
                start = time.process_time()
                for number in order:
                    read_picture(place / f"{number}.jpg")
                times[name].append(1000 * (time.process_time() - start) / options.images)
    loose = statistics.median(times["loose files"])
    for name, values in times.items():
        median, spread = statistics.median(values), f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:16} {median:6.2f} ms ({spread})  {median / loose:.2f} times")


def write(root: Path, count: int) -> dict[str, Path]:
    """Generated images, loose and in archives."""
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
    return {"loose files": root / "images", **{name: Place(root / file) for name, file in archives.items()}}


if __name__ == "__main__":
    main()
