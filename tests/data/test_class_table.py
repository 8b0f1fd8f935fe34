"""Labels from tables, and ImageNet's validation images in one folder."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lk_downstream.data import ClassFolder, ClassificationData, ClassTable, ImageNet
from lk_downstream.errors import InputError

HYMENOPTERA = Path(__file__).parents[3] / "shared/data/hymenoptera"


def images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(folder / name)


def table(root, text, name="train.csv"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return partial(ClassTable, root=str(root), table=name)


def found(dataset):
    return {item["name"]: item["label"] for item in map(dataset.__getitem__, range(len(dataset)))}


def test_a_table_of_files_and_labels(tmp_path):
    images(tmp_path, "b.jpg", "a.jpg")
    for text in ("file,label\nb.jpg,dog\na.jpg,cat\n", "\ufefffile;label\r\nb.jpg; dog\r\na.jpg;cat\r\n"):
        dataset = table(tmp_path, text)("train")
        assert dataset.classes == ("cat", "dog")
        assert found(dataset) == {"a.jpg": 0, "b.jpg": 1}


def test_options_of_a_table(tmp_path):
    images(tmp_path / "jpg", "b.jpg", "a.jpg")
    make = table(tmp_path, "image_id\tspecies\tx\nb\t10\t\na\t9\t\n", "labels.csv")
    options = {"file": "image_id", "label": "species", "suffix": ".jpg", "images": "jpg"}
    dataset = make("train", **options)
    assert dataset.classes == ("9", "10")  # numbers by their size
    assert found(dataset) == {"a.jpg": 0, "b.jpg": 1}
    make = table(tmp_path, "image_id,species\nb,1\na,0\n", "labels.csv")
    assert found(make("train", classes=["cat", "dog"], **options)) == {"a.jpg": 0, "b.jpg": 1}
    with pytest.raises(InputError, match="has the label 1, but counts 1 classes from 0"):
        len(make("train", classes=["cat"], **options))
    with pytest.raises(InputError, match=r"lists a, but there is no file .*a: set suffix \.jpg"):
        len(make("train", **options | {"suffix": ""}))


def test_a_hugging_face_folder(tmp_path):
    images(tmp_path / "train", "b.jpg", "a.jpg")
    rows = [{"file_name": "b.jpg", "label": 1}, {"file_name": "a.jpg", "label": 0}]
    make = table(tmp_path, "\n".join(map(json.dumps, rows)), "train/metadata.jsonl")
    assert found(make("train")) == {"a.jpg": 0, "b.jpg": 1}
    assert make("train").classes == ("0", "1")


@pytest.mark.parametrize("kind", ["separator", "rows", "lists"])
def test_several_labels(tmp_path, kind):
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    if kind == "lists":
        rows = [{"file_name": "a.jpg", "labels": ["y", "x"]}, {"file_name": "b.jpg", "labels": []}]
        rows.append({"file_name": "c.jpg", "labels": ["z"]})
        dataset = table(tmp_path, "\n".join(map(json.dumps, rows)), "metadata.jsonl")("train")
    else:
        text = {"separator": "a.jpg,y | x\nb.jpg,\nc.jpg,z\n", "rows": "a.jpg,y\na.jpg,x\nb.jpg,\nc.jpg,z\n"}[kind]
        dataset = table(tmp_path, "file,label\n" + text)("train", separator="|")
    assert dataset.multilabel
    assert dataset.classes == ("x", "y", "z")
    items = [dataset[number] for number in range(3)]
    assert [item["labels"].tolist() for item in items] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert "label" not in items[0]


def test_batches_of_several_labels(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path, "file,label\na.jpg,x|y\nb.jpg,y\n")
    table(tmp_path, "file,label\na.jpg,y\n", "val.csv")
    module = ClassificationData(partial(ClassTable, root=str(tmp_path), separator="|"), 2, size=4, workers=0)
    with pytest.warns(UserWarning, match=r"val\.csv has no images of 1 of 2 classes \(x\)"):
        module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert module.multilabel
    assert sorted(batch["labels"].tolist()) == [[0, 1], [1, 1]]
    assert next(iter(module.val_dataloader()))["labels"].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na.jpg,x\na.jpg,y\n", "has a.jpg twice, as x and y: remove one of the rows, or set separator"),
        ("file,label\na.jpg,\n", "row 1 has no label"),
        ("file,lable\na.jpg,x\n", "has no column label or .*set label to one of its columns; did you mean 'lable'"),
        ("name,label\na.jpg,x\n", "has no column file or .*set file to one of its columns; it has name, label"),
        ("file,label\n", "has no rows"),
        ("", "has no rows"),
        ("file,label\nz.jpg,x\n", "lists z.jpg, but there is no file .*set images to the folder"),
        ("\udcff", "is no table in UTF-8"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, words):
    images(tmp_path, "a.jpg")
    (tmp_path / "train.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=words):
        len(ClassTable("train", str(tmp_path)))


def test_a_table_that_is_not_there(tmp_path):
    table(tmp_path, "file,label\n")
    with pytest.raises(InputError, match=r"cannot read the table .*trian\.csv .*did you mean 'train\.csv'"):
        len(ClassTable("trian", str(tmp_path)))


@pytest.mark.skipif(not HYMENOPTERA.is_dir(), reason="no hymenoptera")
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_real_set_has_the_same_labels_in_every_form(tmp_path, form):
    folder = ClassFolder("val", str(HYMENOPTERA))
    names, labels = ([os.fsdecode(name) for name in folder.samples[0]], folder.samples[1].tolist())
    rows = [{"file_name": name, "label": folder.classes[label]} for name, label in zip(names, labels)][::-1]
    text = "file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows)
    text = text if form == "csv" else "\n".join(map(json.dumps, rows))
    (tmp_path / f"val.{form}").write_text(text, encoding="utf-8")
    dataset = ClassTable("val", str(tmp_path), f"{{split}}.{form}", images=str(folder.folder))
    assert dataset.classes == folder.classes
    assert [os.fsdecode(name) for name in dataset.samples[0]] == names
    assert dataset.samples[1].tolist() == labels
    assert dataset[5]["image"].tolist() == folder[5]["image"].tolist()


WNIDS = ("n01751748", "n03995372", "n02119789")  # sea snake, power drill, kit fox


@pytest.fixture
def flat(tmp_path):
    """Three validation images in one folder."""
    images(tmp_path / "val", *(f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3)))
    return tmp_path


FORMS = {
    "Kaggle": ("ImageId,PredictionString\n", "ILSVRC2012_val_0000000{n},{wnid} 85 1 499 272 {wnid} 1 1 2 2 \n"),
    "Caffe": ("", "ILSVRC2012_val_0000000{n}.JPEG {label}\n"),
    "ids": ("", "{wnid}\n"),
    "devkit": ("", "{number}\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_imagenets_validation_in_one_folder(flat, form):
    header, line = FORMS[form]
    wnids, numbers = ImageNet("val", str(flat)).wnids, (490, 13, 1)
    order = [2, 0, 1] if form in ("Kaggle", "Caffe") else [0, 1, 2]  # where lines have names, these count
    lines = [line.format(n=at + 1, wnid=WNIDS[at], label=wnids.index(WNIDS[at]), number=numbers[at]) for at in order]
    (flat / "labels.txt").write_text(header + "".join(lines), encoding="utf-8")
    synsets = "".join(f"{wnid} {number} name\n" for wnid, number in zip(WNIDS, numbers))
    (flat / "map_clsloc.txt").write_text(synsets, encoding="utf-8")
    dataset = ImageNet("val", str(flat), complete=False, labels="labels.txt", synsets="map_clsloc.txt")
    assert [dataset.wnids[label] for label in found(dataset).values()] == list(WNIDS)
    with pytest.raises(InputError, match="lacks 997 of 1000 classes"):
        len(ImageNet("val", str(flat), labels="labels.txt", synsets="map_clsloc.txt"))


def test_imagenet_as_kaggle_has_it(tmp_path):
    folder = tmp_path / "ILSVRC/Data/CLS-LOC"
    for wnid in WNIDS[:2]:
        images(folder / "train" / wnid, f"{wnid}_1.JPEG", f"{wnid}_2.JPEG")
    images(folder / "val", "ILSVRC2012_val_00000001.JPEG")
    table(tmp_path, f"ImageId,PredictionString\nILSVRC2012_val_00000001,{WNIDS[1]} 1 1 2 2 \n", "LOC_val_solution.csv")
    options = {"folder": "ILSVRC/Data/CLS-LOC/{split}", "labels": "LOC_val_solution.csv", "complete": False}
    module = ClassificationData(partial(ImageNet, root=str(tmp_path), **options), 2, size=4, workers=0)
    with pytest.warns(UserWarning, match=r"has no images of 1 of 1000 classes \(sea snake\)"):
        module.setup("fit")
    wnids = module.train_data.wnids
    assert [wnids[module.val_set[0]["label"]], len(module.train_set)] == [WNIDS[1], 4]


@pytest.mark.parametrize(
    ("labels", "synsets", "words"),
    [
        ("1\n2\n3\n", None, "the authors' own numbers: set synsets to a file"),
        ("1\n2\n3\n", "n01440764 tench\nn01443537 x\nn01751748 x\n", "in the order of the WordNet ids, which is"),
        ("1\n2\n", "x", "has 2 lines for 3 images"),
        ("n01751748\nn01751748\nn99999999\n", None, "the label 'n99999999', which is none of the 1000 classes"),
        ("ILSVRC2012_val_00000001.JPEG 5\n", None, "no label for 2 of 3 images, such as ILSVRC2012_val_00000002"),
        ("", None, "is empty"),
        ("1\n2\n3\n", "kit fox\n", "is no list of synsets"),
    ],
)
def test_labels_that_are_wrong(flat, labels, synsets, words):
    (flat / "labels.txt").write_text(labels, encoding="utf-8")
    (flat / "synsets.txt").write_text(synsets or "", encoding="utf-8")
    names = {"labels": "labels.txt", "synsets": "synsets.txt" if synsets else None}
    with pytest.raises(InputError, match=words):
        len(ImageNet("val", str(flat), complete=False, **names))


def test_one_folder_without_labels(flat):
    with pytest.raises(InputError, match=r"val holds no class folders.*set labels to the file .*LOC_val_solution\.csv"):
        len(ImageNet("val", str(flat)))
