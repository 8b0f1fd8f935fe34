"""The parts of a segmentation run against mmsegmentation's or plain PyTorch's, both sides in alternating rounds.

``python tools/benchmark_segmentation.py pipeline``: training images a second on one thread, from file to sample.
``python tools/benchmark_segmentation.py metric``: milliseconds to count the pixels of an image of 150 classes.
``python tools/benchmark_segmentation.py forward``: milliseconds of RepLKNet-31B and SLaK-T in two memory orders.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lk_downstream import create_backbone
from lk_downstream.data import ADE20K, Synthetic
from lk_downstream.data.transforms import training_transform
from lk_downstream.metrics import SegmentationMetric
from lk_downstream.ops import LargeKernelConv2d


def compare(sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float], unit: str, scale) -> None:
    """Run the sides in turn, and print the median of each and of the ratios of the first to the others."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            start = clock()
            call()
            if number:  # the first round warms up
                seconds[name].append(clock() - start)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, values))
        shown = sorted(scale(value) for value in values)
        spread = f"({shown[0]:.1f} to {shown[-1]:.1f})"
        print(f"{name:32s} {statistics.median(shown):8.1f} {unit} {spread:22s} {ratio:6.2f} times as fast")


def pipeline(rounds: int, images: int = 40, crop: int = 512) -> None:
    import cv2
    from mmengine.registry import init_default_scope
    from mmseg.datasets import ADE20KDataset

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    steps = [  # configs/_base_/datasets/ade20k.py of mmsegmentation 1.x
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ADEChallengeData2016"
        ours, transform = ADE20K("train", root), training_transform((crop, crop))
        ours.write_synthetic(Synthetic(images, 1, (512, 683)))
        init_default_scope("mmseg")
        folders = {"img_path": "images/training", "seg_map_path": "annotations/training"}
        theirs = ADE20KDataset(data_root=str(root), data_prefix=folders, pipeline=steps)
        print(f"683 x 512 JPEG, crop {crop}, one thread, processor time, {rounds} rounds of {images} images")
        sides = {
            "mmsegmentation": lambda: [theirs[index] for index in range(images)],
            "lk_downstream": lambda: [transform(ours[index]) for index in range(images)],
        }
        compare(sides, rounds, time.process_time, "images/s", lambda seconds: images / seconds)


def metric(rounds: int, images: int = 10, classes: int = 150) -> None:
    from mmseg.evaluation import IoUMetric

    torch.set_num_threads(1)
    blocks = torch.randint(0, classes, (16, 20)).to(torch.uint8)
    target = blocks.repeat_interleave(32, 0).repeat_interleave(35, 1)[:, :683].contiguous()
    prediction = torch.where(torch.rand(target.shape) < 0.7, target, 3)
    indices = prediction.long()  # what its argmax gives
    ours = SegmentationMetric([str(index) for index in range(classes)])
    print(f"683 x 512 pixels, {classes} classes, one thread, {rounds} rounds of {images} images")
    sides = {
        "mmsegmentation": lambda: [
            IoUMetric.intersect_and_union(indices, target.to(indices), classes, 255) for _ in range(images)
        ],
        "lk_downstream": lambda: [ours.update(prediction, target) for _ in range(images)],
    }
    compare(sides, rounds, time.process_time, "ms/image", lambda seconds: 1000 * seconds / images)


@torch.inference_mode()
def forward(rounds: int, size: int = 224) -> None:
    for name in ("replknet_31b", "slak_tiny"):
        model = create_backbone(name).eval()
        image = torch.randn(1, 3, size, size)
        sides = {}
        for operator in ("plain", "auto"):
            for order in (torch.contiguous_format, torch.channels_last):
                side = copy.deepcopy(model).to(memory_format=order)
                for module in side.modules():
                    if isinstance(module, LargeKernelConv2d):
                        module.backend = operator
                label = f"{'our operator' if operator == 'auto' else 'PyTorch'}, {str(order).split('.')[-1]}"
                inputs = image.contiguous(memory_format=order)
                sides[label] = lambda side=side, inputs=inputs: side(inputs)
        print(f"{name}, {size} x {size}, batch 1, {torch.get_num_threads()} threads, {rounds} rounds")
        compare(sides, rounds, time.perf_counter, "ms", lambda seconds: 1000 * seconds)


def main() -> None:
    parts = {"pipeline": pipeline, "metric": metric, "forward": forward}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", *parts], default="all")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    for name, part in parts.items():
        if options.part in (name, "all"):
            part(options.rounds)
            torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
