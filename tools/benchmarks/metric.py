"""Counting the pixels of a segmentation's prediction, against mmsegmentation's IoUMetric."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from benchmarks.sides import OURS, Race, alternate, shares
from lk_downstream.metrics import SegmentationMetric

ROUNDS = 7


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=10, help="images a round")


def races(options: argparse.Namespace) -> Iterator[Race]:
    from mmseg.evaluation import IoUMetric

    torch.set_num_threads(1)
    for height, width, classes, source in ((512, 683, 150, "ADE20K"), (1024, 2048, 19, "Cityscapes")):
        blocks = torch.randint(0, classes, (height // 32, -(-width // 35))).to(torch.uint8)
        target = blocks.repeat_interleave(32, 0).repeat_interleave(35, 1)[:height, :width].contiguous()
        prediction = torch.where(torch.rand(target.shape) < 0.7, target, 3)
        indices = prediction.long()  # what its argmax gives
        ours = SegmentationMetric([str(index) for index in range(classes)])
        sides = {
            "mmsegmentation": lambda indices=indices, target=target, classes=classes: [
                IoUMetric.intersect_and_union(indices, target.to(indices), classes, 255) for _ in range(options.images)
            ],
            OURS: lambda ours=ours, prediction=prediction, target=target: [
                ours.update(prediction, target) for _ in range(options.images)
            ],
        }
        seconds = alternate(sides, options.rounds)
        conditions = f"{width} x {height} pixels, {classes} classes, one thread, processor time"
        yield Race(f"segmentation metric, {source}", conditions, "ms/image", shares(seconds, options.images / 1000))
