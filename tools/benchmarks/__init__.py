"""Speed of the parts of a run beside that of what others have for the same work, both sides in one run.

They need those others: mmsegmentation, timm, torchvision, torchmetrics and pycocotools.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

# name -> what it measures
PARTS = {
    "pipeline": "training images, from files to what a network takes",
    "archives": "images from archives and Parquet files, beside loose files",
    "metric": "counting the pixels of a segmentation",
    "scoring": "COCO's average precision",
    "step": "training steps and predicted images of whole models",
    "evaluation": "a multi-scale evaluation: time and memory",
    "operator": "the large-kernel convolution at the sizes of the networks, beside PyTorch's ways",
    "shares": "where the time of the pipelines and of a training step goes",
    "exported": "exported files in their runtimes: time of an image, and differences from the model",
    "large": "classes of images too large for the memory: time and peak memory",
    "start": "processor time of the command line until it answers",
    "table": "the table of the README from the files of the others",
}


def main(words: list[str]) -> int:
    """Run one of ``PARTS``: print what was measured, and write it as JSON."""
    name, *rest = words
    module = importlib.import_module(f"{__name__}.{name}")
    parser = argparse.ArgumentParser(
        prog=f"benchmark.py {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_options(parser)
    if name != "table":
        parser.add_argument("--rounds", type=int, default=module.ROUNDS, help="measurements of each side")
        parser.add_argument("--output", default="benchmark", help="folder of the JSON file")
    options = parser.parse_args(rest)
    if name == "table":
        return module.main(options)
    from benchmarks.sides import show, write

    began, races = time.time(), []
    for race in module.races(options):
        print(show(race), flush=True)
        races.append(race)
    path = Path(options.output) / f"{name}.json"
    write(path, races, ["python", "tools/benchmark.py", *words])
    print(f"written: {path} ({time.time() - began:.0f} s)", file=sys.stderr)
    return 0
