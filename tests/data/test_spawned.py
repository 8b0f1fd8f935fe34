"""Data sets, transforms and batches in a loader process that is spawned, as on macOS and Windows."""

import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.data import (
    ADE20K,
    Cityscapes,
    ClassFolder,
    ClassificationData,
    Coco,
    DetectionData,
    ImageNet,
    LargeScaleJitter,
    MultiScale,
    MultiScaleCrop,
    ResizeToFit,
    SegmentationData,
    SegmentationFolder,
    Synthetic,
)
from lk_downstream.data.detection_batches import Target
from lk_downstream.data.robustness import Part, RobustnessData, Tree

SMALL = Synthetic(train=4, val=4, size=(64, 96))
SEGMENTATION = {"batch_size": 2, "crop_size": 64, "scale": (96, 64), "synthetic": SMALL, "workers": 0}
CLASSIFICATION = {"batch_size": 2, "size": 32, "synthetic": SMALL, "workers": 0}
DETECTION = {"batch_size": 2, "scale": (96, 64), "synthetic": SMALL, "workers": 0}


def own_masks(root):
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(np.full((64, 96), number % 2, np.uint8)).save(root / kind / split / f"{number}.png")
    return SegmentationData(
        partial(SegmentationFolder, root=root, classes=["a", "b"]), **SEGMENTATION | {"synthetic": None}
    )


def own_classes(root):
    ImageNet("train", root).write_synthetic(SMALL)
    return ClassificationData(partial(ClassFolder, root=root), **CLASSIFICATION | {"synthetic": None})


def detection(root, *augmentation, **options):
    return DetectionData(partial(Coco, root=root), augmentation=list(augmentation), **DETECTION | options)


MODULES = {
    "ADE20K": lambda root: SegmentationData(partial(ADE20K, root=root), **SEGMENTATION),
    "Cityscapes": lambda root: SegmentationData(partial(Cityscapes, root=root), **SEGMENTATION),
    "SegmentationFolder": own_masks,
    "ImageNet": lambda root: ClassificationData(partial(ImageNet, root=root, complete=False), **CLASSIFICATION),
    "ClassFolder": own_classes,
    "Coco": lambda root: detection(root, MultiScale([48, 64], 96), masks=True),
    "Coco, crops": lambda root: detection(root, MultiScaleCrop([64], 96, crop=(32, 64))),
    "Coco, jitter": lambda root: detection(root, LargeScaleJitter(64)),
    "Coco, fit": lambda root: detection(root, ResizeToFit((96, 64))),
}


def epoch(dataset, collate, batches):
    """What a loader process does with what it is sent."""
    torch.manual_seed(0)
    return [_shapes(collate([dataset[index] for index in batch])) for batch in batches]


def _shapes(value):
    if isinstance(value, torch.Tensor):
        return list(value.shape), str(value.dtype)
    if isinstance(value, dict):
        return {name: _shapes(item) for name, item in value.items()}
    if isinstance(value, Target):
        return _shapes(dict(value))
    return [_shapes(item) for item in value] if isinstance(value, list | tuple) else str(value)


@pytest.fixture(scope="module")
def spawned():
    """A process that knows nothing of this one; one for all, for each has to import PyTorch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.mark.parametrize("name", MODULES)
def test_an_epoch_of_each_split(spawned, tmp_path, name):
    module = MODULES[name](tmp_path / "data")
    module.prepare_data()
    module.setup("fit")
    for loader in (module.train_dataloader(), module.val_dataloader()):
        batches = list(loader.batch_sampler)
        assert batches
        sent = (loader.dataset, loader.collate_fn, batches)
        there = spawned.apply(epoch, sent)
        assert len(there) == len(batches)
        assert there == epoch(*sent)


def test_images_to_predict(spawned, tmp_path):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "one.png")
    for name in ("ADE20K", "ImageNet", "Coco"):
        module = MODULES[name](tmp_path / "data")
        module.predict = str(tmp_path / "one.png")
        loader = module.predict_dataloader()
        (batch,) = spawned.apply(epoch, (loader.dataset, loader.collate_fn, [[0]]))
        assert batch["image"][0][:2] == [1, 3]


def test_trees_of_the_robustness_benchmarks(spawned, tmp_path):
    data = own_classes(tmp_path / "data")
    folders = sorted(path.name for path in (tmp_path / "data" / "val").iterdir())
    parts = [Part("imagenet_a", None, None, Tree(tmp_path / "data" / split, folders)) for split in ("train", "val")]
    loader = RobustnessData(data, parts).val_dataloader()
    sent = (loader.dataset, loader.collate_fn, list(loader.batch_sampler))
    assert spawned.apply(epoch, sent) == epoch(*sent)
