"""Classes of images too large for the memory: time and peak memory of a process that writes them row by row.

An image of ``--whole`` pixels a side is also predicted whole, by the rule ``Slide``, and the classes are compared; one
of ``--size`` is not: ``--size 20000`` has 400 megapixels. Images are generated TIFF files, written tile by tile, and
weights are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import models
from benchmarks.sides import OURS, Race
from lk_downstream.data.reading import load_image
from lk_downstream.inference import Slide
from lk_downstream.inference.model import predictor

ROUNDS = 1
WHOLE = "Slide on the whole image"
TILE = 512  # pixels, the side of a tile of the files
PROCESS = "import sys; sys.path.insert(0, sys.argv[1]); from benchmarks import large; large.predict(*sys.argv[2:])"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=5000, help="height and width of the image")
    parser.add_argument("--whole", type=int, default=4000, help="height and width of the one that is predicted whole")
    parser.add_argument("--segmentor", default="test_convnext", help="backbone of UPerNet")
    parser.add_argument("--channels", type=int, default=32, help="of its head")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--tile", type=int, default=1024, help="side of the windows")
    parser.add_argument("--overlap", type=int, default=128, help="of neighbouring windows")
    parser.add_argument("--threads", type=int, default=1)


def races(options: argparse.Namespace) -> Iterator[Race]:
    for size, sides in ((options.whole, (WHOLE, OURS)), (options.size, (OURS,))):
        seconds, memory = ({side: [] for side in sides} for _ in range(2))
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "image.tif"
            write_image(image, size)
            masks = {side: Path(folder) / f"{number}.tif" for number, side in enumerate(sides)}
            for _ in range(options.rounds):
                for side, mask in masks.items():
                    taken, peak = measured(side, image, mask, options)
                    seconds[side].append(taken)
                    memory[side].append(peak / 2**30)
            same = equal_pixels(*masks.values()) if len(masks) > 1 else None
        said = [f"{size} x {size} pixels", f"UPerNet with {options.segmentor}, {options.classes} classes"]
        said += [f"windows of {options.tile} that overlap by {options.overlap}"]
        said += [f"{options.threads} thread{'s' * (options.threads > 1)}"]
        said += [] if same is None else [f"{100 * same:.6g} % of the pixels alike"]
        yield Race("large image, processor time", ", ".join(said), "s", seconds)
        yield Race("large image, peak memory of the process", ", ".join(said), "GiB", memory)


def write_image(path: Path, size: int) -> None:
    """An image of large and small structures, held a tile at a time."""
    import tifffile

    generator = np.random.default_rng(0)

    def tiles() -> Iterator[np.ndarray]:
        for _ in range((-(-size // TILE)) ** 2):
            coarse = generator.integers(0, 224, (TILE // 16, TILE // 16, 3), np.uint8)
            yield coarse.repeat(16, 0).repeat(16, 1) + generator.integers(0, 32, (TILE, TILE, 3), np.uint8)

    shape = {"shape": (size, size, 3), "dtype": np.uint8, "tile": (TILE, TILE)}
    tifffile.imwrite(path, tiles(), **shape, photometric="rgb", bigtiff=3 * size**2 > 2**31)


def measured(side: str, image: Path, mask: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the processor and bytes at most, of a process of its own."""
    words = [str(Path(__file__).parents[1]), side, str(image), str(mask), json.dumps(vars(options))]
    done = subprocess.run([sys.executable, "-c", PROCESS, *words], stdout=subprocess.PIPE, check=True, encoding="utf-8")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def predict(side: str, image: str, mask: str, words: str) -> None:
    """Write a mask, and print what that took; all of it is the work of a process."""
    import resource

    import tifffile

    options = argparse.Namespace(**json.loads(words))
    torch.set_num_threads(options.threads)
    rule = Slide(options.tile, options.tile - options.overlap, None)
    classes = tuple(str(number) for number in range(options.classes))
    task = models.upernet(options.segmentor, rule, classes, options.channels)
    began = time.process_time()
    if side == OURS:
        predictor(task, {}, torch.device("cpu")).write_mask(image, mask)
    else:
        with torch.inference_mode():
            tifffile.imwrite(mask, task.predict(load_image(image)[None])[0].numpy())
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; of Linux this is never below what the parent process had
    print(json.dumps([time.process_time() - began, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def equal_pixels(one: Path, other: Path) -> float:
    """The share of the pixels that have the same class."""
    import tifffile

    return float((tifffile.imread(one) == tifffile.imread(other)).mean())
