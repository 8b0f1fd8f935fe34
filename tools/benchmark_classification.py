"""Training images a second: ours against timm's loader with the same augmentation, in alternating rounds.

``python tools/benchmark_classification.py``: two loader processes, from JPEG files to batches that a network takes:
random crop, flip and RandAugment in the processes, then normalisation, random erasing, mixup and cutmix.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from timm.data import Mixup, create_dataset, create_loader
from torch import Tensor

from lk_downstream import create_classifier
from lk_downstream.data import ClassificationData, ImageNet, Synthetic
from lk_downstream.data.classification_transforms import allow_zero_bits
from lk_downstream.data.synthetic_layouts import write_imagenet
from lk_downstream.tasks import Classification

POLICY = "rand-m9-mstd0.5-inc1"


def ours(root: Path, batch: int, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of this package, as the classification task makes them."""
    data = ClassificationData(
        partial(ImageNet, root=str(root), complete=False), batch, size, workers=workers, auto_augment=POLICY
    )
    data.setup("fit")
    task = Classification(create_classifier("test_convnext"), data.classes)
    for loaded in data.train_dataloader():
        yield task.augmented(loaded["image"], loaded["label"])


def timms(root: Path, batch: int, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of timm's create_loader with its prefetcher, which normalises and erases on the device."""
    loader = create_loader(
        create_dataset("", root=str(root), split="train", is_training=True, batch_size=batch),
        (3, size, size),
        batch,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
        auto_augment=POLICY,
        interpolation="bicubic",
        num_workers=workers,
        device=torch.device("cpu"),
        pin_memory=False,
    )
    allow_zero_bits(loader.dataset.transform)  # else Pillow's newer releases end the run by chance
    mix = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=1000)
    for images, labels in loader:
        yield mix(images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", type=int, default=16, help="batches a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "imagenet"
        # So many that no round reaches the end of an epoch, with what the processes prepare in advance.
        needed = options.batches + 4 * options.workers + 2
        write_imagenet(root, Synthetic(train=options.batch * needed, val=6, size=(375, 500)))
        arguments = (root, options.batch, options.size, options.workers)
        rates: dict[str, list[float]] = {"timm": [], "lk_downstream": []}
        for number in range(options.rounds + 1):
            for name, side in (("timm", timms), ("lk_downstream", ours)):
                batches = side(*arguments)
                for _ in range(2 * options.workers):  # processes start, and what they have prepared is used up
                    next(batches)
                start = time.perf_counter()
                for _ in range(options.batches):
                    next(batches)
                if number:  # the first round warms up
                    rates[name].append(options.batches * options.batch / (time.perf_counter() - start))
                del batches
    print(
        f"500 x 375 JPEG to {options.size} x {options.size}, batches of {options.batch}, {options.workers} loader "
        f"processes, {options.rounds} rounds of {options.batches} batches"
    )
    for name, values in rates.items():
        ratio = statistics.median(value / other for value, other in zip(values, rates["timm"]))
        spread = f"({min(values):.0f} to {max(values):.0f})"
        print(f"{name:15s} {statistics.median(values):7.1f} images/s {spread:16s} {ratio:5.2f} times as fast")


if __name__ == "__main__":
    main()
