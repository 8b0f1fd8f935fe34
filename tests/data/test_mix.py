"""Training on several data sets, in given shares."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from lk_downstream.data import (
    Cityscapes,
    ClassBalanced,
    ClassFolder,
    ClassificationData,
    Coco,
    DataModule,
    DetectionData,
    Mix,
    RepeatFactor,
    SegmentationData,
    SegmentationFolder,
    Synthetic,
)
from lk_downstream.errors import InputError


def folder(root, counts, classes=("x", "y")):
    for name, number in zip(classes, counts):
        for split in ("train", "val"):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / split / name / f"{index}.png")
    return partial(ClassFolder, root=str(root))


def classification(first, others, **options):
    mix = Mix(others, options.pop("ratios", None))
    data = ClassificationData(first, batch_size=2, size=32, workers=0, seed=0, auto_augment=None, mix=mix, **options)
    data.setup("fit")
    return data


def drawn(data, passes=30):
    sampler, counts = data.train_dataloader().sampler, Counter()
    for epoch in range(passes):
        sampler.set_epoch(epoch)
        counts.update(index for index, _ in sampler)
    return counts


def test_shares_of_two_folders(tmp_path):
    first, second = folder(tmp_path / "a", (6, 3)), folder(tmp_path / "b", (1, 2))
    by_size = classification(first, [second])
    assert by_size.train_draws is None
    assert (len(by_size.train_set), len(by_size.val_set)) == (12, 9)
    data = classification(first, [second], ratios=[1, 3])
    assert data.train_draws == pytest.approx([1 / 3] * 9 + [3] * 3)
    counts = drawn(data)
    assert sum(counts[index] for index in range(9, 12)) / sum(counts.values()) == pytest.approx(0.75, abs=0.01)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32)
    balanced = classification(first, [second], ratios=[1, 1], sampling=ClassBalanced())
    draws = balanced.train_draws
    assert draws[:9].sum() == pytest.approx(6)
    assert draws[9:].sum() == pytest.approx(6)
    assert draws[6] == pytest.approx(draws[0] * 7 / 5)  # the class x has 7 samples in all, y has 5


def test_other_classes_and_wrong_ratios(tmp_path):
    first, other = folder(tmp_path / "a", (1, 1)), folder(tmp_path / "b", (1, 1), ("x", "z"))
    with pytest.raises(InputError, match=r"other classes \(z, y\)"):
        classification(first, [other])
    for options, said in (({"ratios": [1]}, "give 2 positive"), ({"ratios": [1, 0]}, "give 2 positive")):
        with pytest.raises(InputError, match=said):
            Mix([other], **options)
    with pytest.raises(InputError, match="no datasets"):
        Mix([])


def test_segmentation_and_detection(tmp_path):
    synthetic = Synthetic(train=4, val=2, size=(48, 64))
    for kind, dataset, options in (
        (SegmentationData, Cityscapes, {"crop_size": 32, "scale": (64, 48)}),
        (DetectionData, Coco, {"scale": (64, 48)}),
    ):
        made = [partial(dataset, root=str(tmp_path / f"{dataset.__name__}{number}")) for number in (1, 2)]
        for one in made:
            kind(one, synthetic=synthetic).prepare_data()
        data = kind(made[0], mix=Mix(made[1:], [1, 1]), batch_size=2, workers=0, sampling=RepeatFactor(0.5), **options)
        data.setup("fit")
        half = len(data.train_set.datasets[0])
        assert len(data.train_set) == 2 * half
        assert data.train_draws[:half].sum() == pytest.approx(data.train_draws[half:].sum())
        assert len(next(iter(data.train_dataloader()))["image"]) == 2
        assert data.train_groups is None or len(data.train_groups) == 2 * half


def test_from_options():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DataModule, "data")
    words = ["--data=SegmentationData", "--data.dataset=lk_downstream.data.SegmentationFolder", "--data.dataset.root=a"]
    words += ["--data.dataset.classes=[u, v]", "--data.mix=Mix", "--data.mix.ratios=[2, 1]"]
    words += ["--data.mix.datasets+=lk_downstream.data.SegmentationFolder", "--data.mix.datasets.root=b"]
    words += ["--data.mix.datasets.classes=[u, v]"]
    data = parser.instantiate_classes(parser.parse_args(words)).data
    (other,) = data.mix.parts(data.classes)
    assert isinstance(other, SegmentationFolder)
    assert (other.root.name, other.split) == ("b", "train")
