"""Training pictures a second on one thread: this package's pipeline against mmsegmentation's, from file to sample.

Both read the same generated JPEG pictures and PNG masks, in alternating rounds; medians of the rounds count. The time
is that of the processor, so that other programs disturb little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import torch
from mmengine.registry import init_default_scope
from mmseg.datasets import ADE20KDataset

from lk_downstream.data import ADE20K, Synthetic
from lk_downstream.data.transforms import training_transform


def ours(root: Path, crop: int):
    dataset, transform = ADE20K("train", root), training_transform((crop, crop))
    return lambda index: transform(dataset[index])


def mmsegs(root: Path, crop: int):
    pipeline = [  # configs/_base_/datasets/ade20k.py of mmsegmentation 1.x
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    folders = {"img_path": "images/training", "seg_map_path": "annotations/training"}
    init_default_scope("mmseg")
    dataset = ADE20KDataset(data_root=str(root), data_prefix=folders, pipeline=pipeline)
    return lambda index: dataset[index]


def pictures_a_second(sides: dict, count: int, rounds: int) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, sample in sides.items():
            start = time.process_time()
            for index in range(count):
                sample(index)
            if number:  # the first round warms up
                speeds[name].append(count / (time.process_time() - start))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=40, help="number of pictures in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 683), help="height and width of the pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ADEChallengeData2016"
        ADE20K("train", root).write_synthetic(Synthetic(options.pictures, 1, tuple(options.size)))
        sides = {"mmsegmentation": mmsegs(root, options.crop), "lk_downstream": ours(root, options.crop)}
        speeds = pictures_a_second(sides, options.pictures, options.rounds)
    height, width = options.size
    print(f"{width} x {height} JPEG, crop {options.crop}, one thread, {options.rounds} rounds of {options.pictures}:")
    for name, values in speeds.items():
        print(f"{name:15s} {statistics.median(values):6.1f} pictures/s ({min(values):.1f} to {max(values):.1f})")
    print(f"ratio {statistics.median(a / b for b, a in zip(*speeds.values())):.2f}")


if __name__ == "__main__":
    main()
