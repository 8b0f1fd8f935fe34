"""Divided data sets: properties over many cases, groups by names and tables, and the three data modules."""

import itertools
import json
import shutil
import zipfile
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
from lk_downstream.data.duplicates import shared_images
from lk_downstream.data.presence import Presence
from lk_downstream.data.splits import Splits
from lk_downstream.data.strata import of_masks, rarest
from lk_downstream.errors import InputError

CASES = [(count, kinds, seed) for seed, (count, kinds) in enumerate(itertools.product((7, 50, 501), (1, 3, 40)))]


def strata(count, kinds, seed):
    return (np.random.default_rng(seed).random(count) ** 3 * kinds).astype(int) - 1  # some are much rarer


def parts(options, count, kinds=None, names=list, root="data"):
    return Splits(**options).parts(count, kinds, names, root)


@pytest.mark.parametrize(("count", "kinds", "seed"), CASES)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_share(count, kinds, seed, fraction):
    classes = strata(count, kinds, seed)
    train, val = parts({"val_fraction": fraction, "seed": seed}, count, classes)
    assert sorted([*train, *val]) == list(range(count))
    assert abs(len(val) - fraction * count) <= 0.5
    for kind in np.unique(classes):
        assert abs((classes[val] == kind).sum() - fraction * (classes == kind).sum()) <= 1
    again = parts({"val_fraction": fraction, "seed": seed}, count, classes)
    assert again[1].tolist() == val.tolist()  # as every process does


@pytest.mark.parametrize(("count", "kinds", "seed"), CASES)
@pytest.mark.parametrize("folds", [2, 5])
def test_folds(count, kinds, seed, folds):
    classes = strata(count, kinds, seed)
    held = []
    for fold in range(folds):
        train, val = parts({"fold": fold, "folds": folds, "seed": seed}, count, classes)
        assert sorted([*train, *val]) == list(range(count))
        assert abs(len(val) - count / folds) < 1
        for kind in np.unique(classes):
            assert abs((classes[val] == kind).sum() - (classes == kind).sum() / folds) <= 1
        held += val.tolist()
    assert sorted(held) == list(range(count))


def test_another_seed_is_another_division():
    found = {tuple(parts({"val_fraction": 0.2, "seed": seed}, 40)[1]) for seed in range(5)}
    assert len(found) == 5


def groups(count, number, seed):
    rng = np.random.default_rng(seed)
    return [f"seq{group:03}_{at}.png" for at, group in enumerate(rng.integers(0, number, count))]


@pytest.mark.parametrize("options", [{"val_fraction": 0.2}, {"fold": 1, "folds": 4}])
@pytest.mark.parametrize(("count", "number", "seed"), [(60, 12, 0), (400, 50, 1), (400, 50, 2), (30, 30, 3)])
def test_groups_stay_whole(options, count, number, seed):
    names, classes = groups(count, number, seed), strata(count, 3, seed)
    of = np.array([name.split("_")[0] for name in names])
    largest = max(np.unique(of, return_counts=True)[1])
    train, val = parts(options | {"group_by": r"(seq\d+)_", "seed": seed}, count, classes, lambda: names)
    assert sorted([*train, *val]) == list(range(count))
    assert not set(of[train]) & set(of[val])
    share = options.get("val_fraction", 0.25)
    assert abs(len(val) - share * count) <= largest
    for kind in np.unique(classes):
        assert abs((classes[val] == kind).sum() - share * (classes == kind).sum()) <= largest


def test_every_fold_has_a_group():
    names = [f"a_{at}" for at in range(90)] + ["b_0", "c_0"]
    for fold in range(3):
        _, val = parts({"fold": fold, "folds": 3, "group_by": "^(.)_"}, 92, None, lambda: names)
        assert len({names[at][0] for at in val}) == 1
    _, val = parts({"val_fraction": 0.1, "group_by": "^._"}, 92, None, lambda: names)
    assert 0 < len(val) <= 2


def test_groups_of_a_table(tmp_path):
    names = ["x/1", "x/2", "y/3", "y/4"]
    rows = "file,who,patient\nx/1.png,u,p\nx/2.png,u,q\ny\\3.png,v,q\ny/4.png,v,p\n"
    (tmp_path / "groups.csv").write_text(rows, encoding="utf-8")
    for group_by, expected in (("groups.csv", {0, 3}), ("groups.csv:who", {0, 1})):
        train, val = parts({"fold": 0, "folds": 2, "group_by": group_by}, 4, None, lambda: names, tmp_path)
        assert expected in (set(train.tolist()), set(val.tolist()))
    with pytest.raises(InputError, match=r"groups\.csv has no row for 1 of 1 images \(z\)"):
        parts({"fold": 0, "group_by": "groups.csv"}, 1, None, lambda: ["z"], tmp_path)
    with pytest.raises(InputError, match=r"has no column whom: .*did you mean 'who'"):
        parts({"fold": 0, "group_by": "groups.csv:whom"}, 4, None, lambda: names, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_fraction": 0.0}, "data.val_fraction is 0.0: it must be above 0"),
        ({"val_fraction": 0.5, "fold": 0}, "exclude one another"),
        ({"fold": 5, "folds": 5}, "data.fold is 5 of data.folds 5"),
        ({"fold": 0, "folds": 1}, "data.fold is 0 of data.folds 1"),
        ({"group_by": "x"}, "data.group_by divides nothing alone"),
        ({"fold": 0, "folds": 9}, "data has 8 images, too few for 9 parts"),
        ({"val_fraction": 0.01}, "0 of 8 images would be validated on"),
        ({"fold": 0, "folds": 2, "group_by": "(s"}, r"'\(s' is no regular expression"),
        ({"fold": 0, "folds": 2, "group_by": "s"}, "has 1 groups of s, too few for 2 parts"),
        ({"fold": 0, "folds": 2, "group_by": "s[0-6]"}, "matches nothing in 1 of 8 names, such as s7"),
    ],
)
def test_options_that_are_wrong(options, words):
    with pytest.raises(InputError, match=words):
        parts(options, 8, None, lambda: [f"s{at}" for at in range(8)])


def test_the_rarest_class():
    present = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    assert rarest(Presence.of(present)).tolist() == [1, 2, 2, -1, 0]


# ---- the data modules ----


def image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def noise(at):
    return np.random.default_rng(at).integers(0, 255, (8, 8, 3))


def segmentation(root, **options):
    for at in range(10):
        image(root / f"images/train/seq{at // 2}_{at}.png", noise(at))
        image(root / f"annotations/train/seq{at // 2}_{at}.png", np.full((8, 8), at in (2, 7)))
    make = partial(SegmentationFolder, root=str(root), classes=["a", "b"])
    return SegmentationData(make, 2, crop_size=8, scale=(8, 8), workers=0, **options)


def detection(root, **options):
    rows, objects = [], []
    for at in range(10):
        image(root / f"train2017/seq{at // 2}_{at}.png", noise(at))
        rows.append({"id": at, "file_name": f"seq{at // 2}_{at}.png", "height": 8, "width": 8})
        box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
        objects.append({"id": at + 1, "image_id": at, "category_id": 1 + (at in (2, 7)), **box})
    kinds = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (root / "annotations").mkdir()
    text = json.dumps({"images": rows, "annotations": objects, "categories": kinds})
    (root / "annotations/instances_train2017.json").write_text(text, encoding="utf-8")
    return DetectionData(partial(Coco, root=str(root)), 2, scale=(8, 8), workers=0, **options)


def classification(root, **options):
    for at in range(10):
        image(root / f"train/{'b' if at in (2, 7) else 'a'}/seq{at // 2}_{at}.png", noise(at))
    return ClassificationData(partial(ClassFolder, root=str(root)), 2, size=8, workers=0, **options)


def numbers(dataset):
    return sorted(int(dataset[at]["name"].split("_")[1].removesuffix(".png")) for at in range(len(dataset)))


@pytest.mark.parametrize("make", [segmentation, detection, classification])
@pytest.mark.parametrize(
    "options", [{"val_fraction": 0.5}, {"fold": 1, "folds": 2}, {"val_fraction": 0.4, "group_by": "seq."}]
)
def test_data_modules(tmp_path, make, options):
    module = make(tmp_path, **options)
    module.setup("fit")
    train, val = numbers(module.train_set), numbers(module.val_set)
    assert sorted(train + val) == list(range(10))
    if "group_by" in options:
        assert not {at // 2 for at in train} & {at // 2 for at in val}
        assert len(val) == 4
    else:
        assert len(val) == 5
        assert len({2, 7} & set(val)) == 1  # the rare class is in both parts
    assert sorted(name for batch in module.val_dataloader() for name in batch["name"]) == sorted(
        module.val_set[at]["name"] for at in range(len(val))
    )
    module.val_set = None
    module.setup("validate")  # an evaluation has the same part
    assert numbers(module.val_set) == val


@pytest.mark.parametrize("make", [segmentation, detection, classification])
def test_what_a_checkpoint_has_seen_is_not_validated_on(tmp_path, make):
    state = make(tmp_path / "a", fold=0).state_dict()
    assert json.loads(json.dumps(state)) == {"division": {"fold": 0, "folds": 5, "group_by": None, "split_seed": 0}}
    make(tmp_path / "b", fold=0).load_state_dict(state)
    make(tmp_path / "c").load_state_dict(state)  # with a split of its own
    for number, options in enumerate(({"fold": 1}, {"fold": 0, "split_seed": 1}, {"val_fraction": 0.2})):
        with pytest.raises(InputError, match=r"trained on another part of the data \(fold 0, folds 5.*set the same"):
            make(tmp_path / str(number), **options).load_state_dict(state)
    with pytest.raises(InputError, match=r"data.val_split is 'test', but data.fold takes a part of 'train'.*fold null"):
        make(tmp_path / "d", fold=0, val_split="test")


def test_masks_of_so_many_pixels_that_they_are_not_all_read(tmp_path):
    data = segmentation(tmp_path).train_data
    assert of_masks(data, most_pixels=639) is None
    assert of_masks(data, most_pixels=640).tolist() == [int(at in (2, 7)) for at in range(10)]
    (tmp_path / "annotations/train/seq0_0.png").write_bytes(b"")
    assert of_masks(data).tolist()[:3] == [-1, 0, 1]


@pytest.mark.parametrize("make", [segmentation, detection, classification])
def test_an_image_in_both_parts_is_named(tmp_path, make):
    module = make(tmp_path, val_fraction=0.5)
    module.setup("fit")
    train, val = module.train_set.dataset, module.val_set.dataset if make is not segmentation else module.val_set
    (first, second) = (next(iter(part.dataset.image_path(at) for at in part.indices)) for part in (train, val))
    shutil.copyfile(first, second)
    with pytest.warns(UserWarning, match=r"1 images of the training are in the validation too.*remove one of each"):
        module.setup("fit")


def test_shared_images(tmp_path):
    for name, content in (("a", b"12"), ("b", b"13"), ("c", b"12"), ("d", b"1")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (str(tmp_path / name) for name in "abcd")
    assert shared_images([a, b], [c, d, "nowhere"]) == [(a, c)]
    assert shared_images([b, "nowhere"], [c, d, "nowhere"]) == []
    assert shared_images([a], [a]) == [(a, a)]
    assert shared_images([a], [c], seconds=-1) == []
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("train/a", b"12")
        archive.writestr("val/a", b"12")
        archive.writestr("val/b", b"13")
    inside = [f"{tmp_path}/e.zip/{name}" for name in ("train/a", "val/b", "val/a", "val/nothing")]
    assert shared_images(inside[:1], inside[1:]) == [(inside[0], inside[2])]
