"""What a training says first: data that are right in form, but probably not what was meant."""

import warnings
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lk_downstream.data import (
    ClassFolder,
    ClassificationData,
    Coco,
    DetectionData,
    SegmentationData,
    SegmentationFolder,
)
from lk_downstream.data.check import check_dataset
from lk_downstream.data.doubts import doubts
from lk_downstream.data.labels import label_table
from lk_downstream.errors import InputError


def folder(root, *masks, split="train"):
    for number, values in enumerate(masks):
        image = np.full((4, 4, 3), number + 7 * len(split))
        for kind, pixels in (("images", image), ("annotations", np.resize(values, (4, 4)))):
            path = root / kind / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return partial(SegmentationFolder, root=str(root), classes=["back", "front"])


def test_an_entry_for_255_wins():
    assert label_table(2, label_map={255: 1})[[0, 1, 255]].tolist() == [0, 1, 1]
    assert label_table(2, label_map={7: 1})[255] == 255
    assert label_table(2, ignore_index=0, label_map={0: 1})[[0, 255]].tolist() == [1, 254]


def test_masks_of_0_and_255_get_a_hint(tmp_path):
    make = folder(tmp_path, [0, 255], [0, 255])
    hint = r"set label_map {255: 1}"
    assert f"hint: the masks hold 0 and 255 alone, and 255 is unlabelled: if it is a class, {hint}" in str(
        check_dataset(make("train"))
    )
    found = doubts(make("train"))
    assert hint in found[0]
    assert found[1] == "1 of 2 classes are in none of the 2 masks: front"
    assert doubts(make("train", label_map={255: 1})) == []
    assert "hint" not in str(check_dataset(make("train", label_map={255: 1})))


def test_fit_says_it_too(tmp_path):
    make = folder(tmp_path, [0, 255])
    folder(tmp_path, [0, 1], split="val")
    with pytest.warns(UserWarning, match="none of the 1 masks: front"):
        SegmentationData(make).setup("fit")
    folder(tmp_path, [0, 1], [0, 255])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SegmentationData(make).setup("fit")


def test_of_many_masks_a_sample_is_read(tmp_path):
    assert doubts(folder(tmp_path, *[[0]] * 20)("train"), most_pixels=50) == []


def test_an_unnamed_background_has_two_remedies(tmp_path):
    dataset = folder(tmp_path, [0, 1, 2], [1, 2])("train")
    with pytest.raises(InputError, match=r"if 0 is the background, name it .*; if 0 is unlabelled, set reduce_zero"):
        dataset[0]
    with pytest.raises(InputError, match=r": values 1..2 with 2 classes: set reduce_zero_label true"):
        dataset[1]


def test_both_splits_the_same(tmp_path):
    make = folder(tmp_path / "segmentation", [0, 1])
    match = r"both splits are .*: the metrics will be those of images that were trained on"
    with pytest.warns(UserWarning, match=match):
        SegmentationData(make, val_split="train").setup("fit")
    for name in ("a", "b"):
        path = tmp_path / "classes" / "all" / name
        path.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(path / "x.png")
    (tmp_path / "classes" / "val").symlink_to("all")
    with pytest.warns(UserWarning, match=match):
        ClassificationData(partial(ClassFolder, root=str(tmp_path / "classes")), train_split="all").setup("fit")


def test_a_category_without_objects_is_named(tmp_path):
    import json

    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / f"{split}2017" / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "root"}, {"id": 2, "name": "cat"}],
    }
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.warns(UserWarning, match="1 classes have no object: root"):
        DetectionData(partial(Coco, root=tmp_path)).setup("fit")


@pytest.mark.parametrize("task", ["Segmentation", "Classification", "Detection"])
def test_options_of_the_users_callbacks_are_kept(task):
    from types import SimpleNamespace

    from lk_downstream import tasks

    kind = getattr(tasks, task)
    first, *others = kind.own_callbacks
    given = first()
    trainer = SimpleNamespace(callbacks=[given])
    callbacks = kind.configure_callbacks(SimpleNamespace(trainer=trainer, own_callbacks=kind.own_callbacks))
    assert [type(callback) for callback in callbacks] == others
