"""Training images a second, from files to what a network takes.

Segmentation against mmsegmentation and the time of decoding image and mask alone, classification against timm's loader
with the same augmentation, detection against torchvision's reference transforms; on generated JPEG files.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.sides import OURS, Race, alternate, rates
from lk_downstream import create_classifier
from lk_downstream.data import ADE20K, ClassificationData, Coco, ImageNet, Synthetic
from lk_downstream.data.batch_distortion import DrawnDistortion
from lk_downstream.data.classification_transforms import allow_zero_bits
from lk_downstream.data.detection_transforms import MultiScale
from lk_downstream.data.detection_transforms import training_transform as detection_transform
from lk_downstream.data.distortion import PhotoMetricDistortion
from lk_downstream.data.reading import load_image
from lk_downstream.data.synthetic_layouts import write_coco, write_imagenet
from lk_downstream.data.transforms import training_transform
from lk_downstream.tasks import Classification

ROUNDS = 7
TASKS = ("segmentation", "classification", "detection")
CLASSES = 6  # of the validation, which training needs too
POLICY = "rand-m9-mstd0.5-inc1"
ADE20K_FOLDER = "ADEChallengeData2016"
SHORT = tuple(range(480, 801, 32))  # sides of detection's images, pixels


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--images", type=int, default=40, help="images a round (classification: 8 times as many)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of classification")


def races(options: argparse.Namespace) -> Iterator[Race]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            yield {"segmentation": segmentation, "classification": classification, "detection": detection}[name](
                Path(folder), options
            )
    torch.set_num_threads(threads)


def segmentation(folder: Path, options: argparse.Namespace) -> Race:
    """ADE20K's pipeline of the papers."""
    import cv2
    from mmengine.registry import init_default_scope
    from mmseg.datasets import ADE20KDataset

    cv2.setNumThreads(0)
    steps = [  # configs/_base_/datasets/ade20k.py of mmsegmentation 1.x
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "RandomResize", "scale": (2048, 512), "ratio_range": (0.5, 2.0), "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    ours = _ade20k(folder, options.images)
    init_default_scope("mmseg")
    folders = {"img_path": "images/training", "seg_map_path": "annotations/training"}
    theirs = ADE20KDataset(data_root=str(folder / ADE20K_FOLDER), data_prefix=folders, pipeline=steps)
    whole, drawn = (
        training_transform((512, 512), distortion=kind()) for kind in (PhotoMetricDistortion, DrawnDistortion)
    )

    def decoded(index: int) -> None:
        _, image, mask = ours.samples[index]
        load_image(image), ours.read_values(mask)

    sides = {
        "mmsegmentation": partial(_all, theirs.__getitem__, options.images),
        OURS: partial(_all, lambda index: whole(ours[index]), options.images),
        f"{OURS}, colours on the device": partial(_all, lambda index: drawn(ours[index]), options.images),
        "decoding alone": partial(_all, decoded, options.images),
    }
    conditions = "683 x 512 JPEG to a 512 crop, one thread, processor time"
    return Race(
        "segmentation pipeline", conditions, "images/s", rates(alternate(sides, options.rounds), options.images)
    )


def detection(folder: Path, options: argparse.Namespace) -> Race:
    """Multi-scale training: flip, and resize of the short side to one of eleven lengths, with boxes and masks."""
    from torchvision.transforms import v2

    ours, transform = _coco(folder, options.images)
    reference = v2.Compose(  # references/detection/presets.py of torchvision, and its resize as a transform
        [v2.RandomHorizontalFlip(0.5), v2.RandomShortestSize(SHORT, 1333), v2.SanitizeBoundingBoxes(labels_getter=None)]
    )

    def theirs(index: int) -> None:
        item = ours[index]
        target = {name: item["target"][name] for name in ("boxes", "masks")}
        reference(item["image"], target)

    sides = {
        "torchvision": partial(_all, theirs, options.images),
        OURS: partial(_all, lambda index: transform(ours[index]), options.images),
        "reading alone": partial(_all, ours.__getitem__, options.images),
    }
    conditions = "640 x 480 JPEG to short sides of 480 to 800, boxes and masks, one thread, processor time"
    return Race("detection pipeline", conditions, "images/s", rates(alternate(sides, options.rounds), options.images))


def classification(folder: Path, options: argparse.Namespace) -> Race:
    """Random crop, flip and RandAugment in loader processes, then erasing, mixup and cutmix on batches."""
    batch, batches, workers = 32, max(1, options.images // 4), options.workers
    # So many that no round reaches the end of an epoch, with what the processes prepare in advance.
    needed = batches + 4 * workers + 2
    _imagenet(folder, batch * needed)
    seconds: dict[str, list[float]] = {"timm": [], OURS: []}
    for number in range(options.rounds + 1):
        for name, side in (("timm", _timms), (OURS, _ours)):
            loaded = side(folder / "imagenet", batch, workers)
            for _ in range(2 * workers):  # processes start, and what they have prepared is used up
                next(loaded)
            start = time.perf_counter()
            for _ in range(batches):
                next(loaded)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            del loaded
    conditions = f"500 x 375 JPEG to 224 x 224, RandAugment, batches of {batch}, {workers} loader processes"
    return Race("classification pipeline", conditions, "images/s", rates(seconds, batch * batches))


def _ade20k(folder: Path, images: int) -> ADE20K:
    data = ADE20K("train", folder / ADE20K_FOLDER)
    data.write_synthetic(Synthetic(images, 1, (512, 683)))
    return data


def _coco(folder: Path, images: int) -> tuple[Coco, Callable]:
    """With the transform of training."""
    write_coco(folder / "coco", Synthetic(images, 1, (480, 640)))
    return Coco("train", str(folder / "coco"), masks=True), detection_transform([MultiScale(SHORT)])


def _imagenet(folder: Path, images: int) -> None:
    write_imagenet(folder / "imagenet", Synthetic(train=images, val=CLASSES, size=(375, 500)))


def _ours(root: Path, batch: int, workers: int) -> Iterator[object]:
    yield from _augmented(*_classification(root, batch, workers))


def _classification(root: Path, batch: int, workers: int) -> tuple[ClassificationData, Classification]:
    data = ClassificationData(
        partial(ImageNet, root=str(root), complete=False), batch, 224, workers=workers, auto_augment=POLICY
    )
    data.setup("fit")
    return data, Classification(create_classifier("test_convnext"), data.classes)


def _augmented(data: ClassificationData, task: Classification) -> Iterator[object]:
    for loaded in data.train_dataloader():
        yield task.augmented(loaded["image"], loaded["label"])


def own(task: str, folder: Path, images: int) -> Callable[[], None]:
    """Read and prepare, in one process, once over so many images of files in ``folder``."""
    if task == "segmentation":
        data, transform = _ade20k(folder, images), training_transform((512, 512), distortion=PhotoMetricDistortion())
    elif task == "detection":
        data, transform = _coco(folder, images)
    else:
        _imagenet(folder, max(images, CLASSES))
        made = _classification(folder / "imagenet", images, workers=0)
        return lambda: list(_augmented(*made))
    return partial(_all, lambda index: transform(data[index]), images)


def _timms(root: Path, batch: int, workers: int) -> Iterator[object]:
    """Its prefetcher normalises and erases on the device."""
    from timm.data import Mixup, create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(root), split="train", is_training=True, batch_size=batch),
        (3, 224, 224),
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


def _all(call: Callable[[int], object], count: int) -> None:
    """The same images with the same draws in every round."""
    random.seed(0)
    torch.manual_seed(0)
    for index in range(count):
        call(index)
