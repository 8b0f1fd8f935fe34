"""Images within Parquet files: the same items as from files of their own, read by the row group."""

import io
import json
import pickle
import random
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lk_downstream import trust
from lk_downstream.data import (
    ClassBalanced,
    ClassificationData,
    ClassParquet,
    ImageFolder,
    SegmentationData,
    SegmentationParquet,
    parquet,
)
from lk_downstream.data.check import check_dataset
from lk_downstream.errors import DamagedFile, InputError
from lk_downstream.inference.inputs import read_images

arrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = {"_type": "Image"}
LABEL = {"names": ["cat", "dog", "rare"], "_type": "ClassLabel"}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3))


def write(path, columns, features=None, group=3):
    table = arrow.table(columns)
    if features:
        note = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": note})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def images(numbers, names=True):
    return [{"bytes": png(pixels(n)), "path": f"n{n % 3}_{n}.png" if names else None} for n in numbers]


def as_published(root, split="train", names=True):
    """Ten images in two files of row groups of three, as ``datasets`` writes them."""
    for shard, numbers in enumerate((range(7), range(7, 10))):
        columns = {"image": images(numbers, names), "label": [n % 2 for n in numbers]}
        write(root / f"data/{split}-{shard:05}-of-00002.parquet", columns, {"image": IMAGE, "label": LABEL})
    return root


def test_images_and_labels(tmp_path):
    dataset = ClassParquet("train", as_published(tmp_path))
    assert dataset.classes == ("cat", "dog", "rare")
    assert len(dataset) == 10
    for number in random.Random(0).sample(range(10), 10):
        item = dataset[number]
        assert (item["name"], item["label"]) == (f"n{number % 3}_{number}.png", number % 2)
        assert (item["image"].permute(1, 2, 0).numpy() == pixels(number)).all()
    assert dataset.image_path(8) == tmp_path / "data" / "train-00001-of-00002.parquet" / "1"
    assert "dog                             5  50.00 %" in str(check_dataset(dataset))
    unnamed = ClassParquet("val", as_published(tmp_path / "other", "validation", names=False))
    names = [unnamed[number]["name"] for number in (6, 7)]
    assert names == ["validation-00000-of-00002/6", "validation-00001-of-00002/0"]


def test_a_row_is_read_with_its_group_alone(tmp_path, monkeypatch):
    dataset, read = ClassParquet("train", as_published(tmp_path)), []
    assert len(dataset) == 10
    original = trust.read_parquet
    monkeypatch.setattr(trust, "read_parquet", lambda *args: read.append(args[1:]) or original(*args))
    for number in (0, 1, 2, 9, 0, 4):
        dataset[number]
    assert read == [("image", 0), ("image", 0), ("image", 1)]  # the second file's first group is its only one
    for number in (6, 3, 0):
        dataset[number]
    assert len(dataset.shards._kept) == 4
    monkeypatch.setenv("LK_MAX_FILE_BYTES", "300")
    with pytest.raises(InputError, match=r"00000-of-00002\.parquet: a row group takes \d+ bytes, more.* raise LK_MAX"):
        ClassParquet("train", tmp_path)[0]


@pytest.mark.skipif("fork" not in torch.multiprocessing.get_all_start_methods(), reason="not on this system")
def test_loader_processes(tmp_path):
    dataset = ClassParquet("train", as_published(tmp_path))
    expected = [dataset[number]["image"] for number in range(10)]  # rows that the parent keeps
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert all(torch.equal(item["image"], image) for item, image in zip(loader, expected, strict=True))
    sent = pickle.dumps(dataset)  # as to a process that is spawned
    assert len(sent) < 5000
    assert torch.equal(pickle.loads(sent)[8]["image"], expected[8])


def test_the_data_module(tmp_path):
    as_published(tmp_path), as_published(tmp_path, "validation")
    make = partial(ClassParquet, root=str(tmp_path))
    data = ClassificationData(make, 2, size=8, workers=0, sampling=ClassBalanced())
    with pytest.warns(UserWarning, match=r"no images of 1 of 3 classes \(rare\)"):
        data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 8, 8)
    data = ClassificationData(make, 2, size=8, workers=0, fold=0, folds=2, group_by="^(n.)_")
    with pytest.warns(UserWarning, match="no images"):
        data.setup("fit")
    assert not {s["name"][:2] for s in data.train_set} & {s["name"][:2] for s in data.val_set}


def test_other_labels(tmp_path):
    columns = {"img": [png(pixels(n)) for n in range(4)], "fine": ["b", "a", "b", "c"], "many": [[0, 2], [], [1], [2]]}
    write(tmp_path / "a.parquet", columns)
    make = partial(ClassParquet, "train", tmp_path / "a.parquet")  # a single file
    texts = make(label="fine")
    assert texts.classes == ("a", "b", "c")
    assert [texts[n]["label"] for n in range(4)] == [1, 0, 1, 2]
    assert texts[3]["name"] == "a/3"
    lists = make(label="many", classes=["x", "y", "z"])
    assert [lists[n]["labels"].tolist() for n in range(4)] == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    texts.known = ("c", "b", "a")  # as the training has them
    del texts.samples
    assert [texts[n]["label"] for n in range(4)] == [1, 2, 1, 0]
    with pytest.raises(InputError, match=r"a\.parquet/0 has the label 2, but there are 2 classes, counted from 0"):
        len(make(label="many", classes=["x", "y"]))
    with pytest.raises(InputError, match=r"a\.parquet has no column many2; did you mean 'many'\?: set label"):
        len(make(label="many2"))
    write(tmp_path / "b.parquet", {"image": [b"1", b"2"], "label": [0, None]})
    with pytest.raises(InputError, match=r"b\.parquet/1 has no label in the column label"):
        len(ClassParquet("train", tmp_path / "b.parquet"))


def test_images_and_masks(tmp_path):
    masks = [np.random.default_rng(n).integers(0, 3, (6, 8)) for n in range(5)]
    columns = {"annotation": [{"bytes": png(mask), "path": None} for mask in masks], "image": images(range(5))}
    write(tmp_path / "train.parquet", columns, {"image": IMAGE, "annotation": IMAGE}, group=2)
    make = partial(SegmentationParquet, root=str(tmp_path), classes=["a", "b"], reduce_zero_label=True)
    dataset = make("train")
    assert (len(dataset), dataset.columns) == (5, ("image", "annotation"))
    for number, item in enumerate(dataset):
        assert item["name"] == f"n{number % 3}_{number}"
        assert (item["image"].permute(1, 2, 0).numpy() == pixels(number)).all()
        assert (item["mask"].numpy() == np.array([255, 0, 1])[masks[number]]).all()
    assert check_dataset(dataset).masks.tolist()[:4] == [5, 5, 5, 0]
    data = SegmentationData(make, 2, crop_size=8, scale=(8, 8), workers=0, val_fraction=0.4)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (3, 2)
    assert next(iter(data.train_dataloader()))["mask"].shape == (2, 8, 8)
    with pytest.raises(InputError, match=r"train\.parquet/0 has the label values 2 outside the 2 classes"):
        SegmentationParquet("train", str(tmp_path), classes=["a", "b"])[0]


def test_images_to_predict_on(tmp_path):
    as_published(tmp_path / "set", "test")
    one = next((tmp_path / "set/data").glob("*00000-of*"))
    for path, count in ((tmp_path / "set", 10), (tmp_path / "set/data", 10), (one, 7)):
        folder = ImageFolder(path)
        assert len(folder) == count
        for number in range(count):
            assert folder[number]["name"] == f"n{number % 3}_{number}"
            assert (folder[number]["image"].permute(1, 2, 0).numpy() == pixels(number)).all()
            assert folder.files[number].relative_to(folder.root).as_posix() == f"n{number % 3}_{number}.png"
    given = read_images(one)
    assert (given.single, [image.name for image in given.images][:2]) == (False, ["n0_0", "n1_1"])
    data = ClassificationData(partial(ClassParquet, root=str(as_published(tmp_path))), 2, size=8, workers=0)
    data.predict = str(tmp_path / "set")
    assert sum(len(batch["name"]) for batch in data.predict_dataloader()) == 10
    for name in ("../../a.png", "/a.png", "a/../../b.png", r"..\a.png", "C:a.png", ""):  # no place for results
        columns = {"image": [{"bytes": png(pixels(n)), "path": name if n else "x.png"} for n in range(2)]}
        write(tmp_path / "odd/a.parquet", columns)
        assert ImageFolder(tmp_path / "odd").names == ["a/0", "a/1"]
    write(tmp_path / "odd/a.parquet", {"image": [b"no image", png(pixels(0))]})
    with pytest.raises(InputError, match=r"a\.parquet/0 is not an image"):
        ImageFolder(tmp_path / "odd/a.parquet")[0]
    write(tmp_path / "odd/a.parquet", {"text": ["a"]})
    with pytest.raises(InputError, match=r"a\.parquet has no column image"):
        ImageFolder(tmp_path / "odd")


def test_files_that_are_not_there(tmp_path):
    as_published(tmp_path)
    with pytest.raises(InputError, match=r"no Parquet files of the split 'trian', such as data/.*did you mean 'train'"):
        len(ClassParquet("trian", tmp_path))
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"has 1 of 2 files of train, and lacks number 00000: download it"):
        len(ClassParquet("train", tmp_path))


def test_damage_is_a_sentence(tmp_path):
    as_published(tmp_path)
    path, generator = tmp_path / "data" / "train-00000-of-00002.parquet", random.Random(0)
    data = path.read_bytes()
    for number in range(60):
        bad = bytearray(data[: generator.randrange(len(data))] if number % 3 == 0 else data)
        for _ in range(generator.randint(1, 30)):
            bad[generator.randrange(len(bad))] = generator.randrange(256)
        path.write_bytes(bad)
        said = str(tmp_path)
        try:
            assert all(item["image"].ndim == 3 for item in ClassParquet("train", tmp_path))
        except InputError as error:
            said = str(error)
        assert str(tmp_path) in said
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedFile, match=r"00000-of-00002\.parquet is no Parquet file or is damaged"):
        len(ClassParquet("train", tmp_path))
    write(path, {"image": [{"bytes": None, "path": "a.png"}], "label": [0]})
    with pytest.raises(InputError, match=re.escape(f"{path / '0'} has no bytes in its column image")):
        ClassParquet("train", tmp_path)[0]


def test_without_pyarrow(tmp_path, monkeypatch):
    as_published(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"is read by pyarrow, which is not installed: pip install 'lk_down"):
        len(ClassParquet("train", tmp_path))
    assert parquet.ClassParquet  # is imported all the same
