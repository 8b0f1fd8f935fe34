"""The index of an annotation file that is kept is the one that is made, as long as the file is the same."""

import json
import os
import pickle
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lk_downstream import trust
from lk_downstream.data import Coco, DetectionData, coco_kept
from lk_downstream.data.coco_index import make_index

OUTLINES = (
    [[5, 5, 15, 5.25, 15, 15, 5, 15], [1, 1, 1, 9, 9, 9], [0, 0]],
    {"size": [30, 40], "counts": [610, 90, 500]},
    {"size": [30, 40], "counts": "Rc0n1"},
    [["1", 2, 3, 4, 5, 6]],
    [[[[[1]]]]],
    [1e400, None],
    [],
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Images of 40 x 30, one with a name that is no text, and objects with outlines of all kinds."""
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_kept, "KEEP_FROM", 0)
    names = ["b.png", "ü/a.png", "c.png"]
    for name in names:
        (tmp_path / "val2017" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "val2017" / name)
    boxes = [[5, 5, 10, 10], [-5, 20, 10, 20], [5, 5, 0.5, 10]]  # the second is clipped, the third left out
    objects = [
        {"id": number, "image_id": 1 + number % 2, "category_id": 3, "bbox": boxes[number % 3], "segmentation": outline}
        for number, outline in enumerate(OUTLINES * 2)
    ]
    images = [{"id": 9 - n, "file_name": name, "height": 30, "width": 40} for n, name in enumerate(names)]
    images += [{"id": n, "file_name": names[0], "height": 30, "width": 40} for n in (1, 2)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "c"}, {"id": 1, "name": "d"}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def drawn(index, image):
    try:
        return index.masks(image).tolist()
    except Exception as error:
        return str(error)


def same(one, other):
    for name in (field.name for field in fields(one)):
        first, second = getattr(one, name), getattr(other, name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype, name
            assert first.shape == second.shape, name
            assert first.tobytes() == second.tobytes(), name
        else:
            assert (list(first) if name == "files" else first) == (list(second) if name == "files" else second), name
    assert [drawn(one, image) for image in range(5)] == [drawn(other, image) for image in range(5)]


def test_what_is_kept_is_what_is_made(root, monkeypatch):
    dataset = Coco("val", root)
    made = make_index(dataset.annotations, *dataset.content())
    assert any("no list of polygons" in str(drawn(made, image)) for image in range(5))
    assert not isinstance(made.boxes, np.memmap)
    same(dataset.read_index(), made)
    monkeypatch.setattr(Coco, "content", lambda self: pytest.fail("the file was parsed again"))
    kept = Coco("val", root).read_index()
    assert isinstance(kept.boxes, np.memmap)
    same(kept, made)
    sent = pickle.dumps(kept)
    assert len(sent) < len(pickle.dumps(made))
    assert b"ends.npy" in sent
    assert isinstance(pickle.loads(sent).outlines, np.memmap)
    same(pickle.loads(sent), made)
    item = Coco("val", root)[0]["target"]
    assert type(item["image_id"]) is int
    assert item["labels"].tolist() == made.labels[made.first[0] : made.first[1]].tolist()
    item["labels"].mul_(2)  # a copy, not the file


def test_every_change_is_noticed(root):
    Coco("val", root).read_index()
    file = root / "annotations" / "instances_val2017.json"
    status, text = file.stat(), file.read_text(encoding="utf-8")
    file.write_text(text.replace('"name": "d"', '"name": "e"'), encoding="utf-8")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert Coco("val", root).read_index().categories == {1: "e", 3: "c"}
    assert len(list((root / "cache").iterdir())) == 1
    assert Coco("val", root, box_format="xyxy").read_index().boxes.tolist() != Coco("val", root).index.boxes.tolist()
    assert len(list((root / "cache").iterdir())) == 2


def test_kept_files_that_are_damaged_or_cannot_be_written(root, monkeypatch):
    made = Coco("val", root).read_index()
    (kept,) = (root / "cache").iterdir()
    for length in (0, 150):  # in the place of the file, which is mapped
        data = (kept / "boxes.npy").read_bytes()[:length]
        (kept / "boxes.npy").unlink()
        (kept / "boxes.npy").write_bytes(data)
        same(Coco("val", root).read_index(), made)
    monkeypatch.setenv("LK_CACHE", str(root / "annotations" / "instances_val2017.json"))
    same(Coco("val", root).read_index(), made)


def test_what_processes_that_do_not_score_know(root, monkeypatch):
    data = DetectionData(partial(Coco, root=str(root)), train_split="val", workers=0)
    truth, listing = data.truth(), data.listing()
    assert {row["id"] for row in listing["images"]} == {row["id"] for row in truth["images"]}
    assert {(row["id"], row["name"]) for row in truth["categories"]} == {
        (row["id"], row["name"]) for row in listing["categories"]
    }
    monkeypatch.setattr(trust, "read_json", lambda path: pytest.fail("it was parsed again"))
    data.listing()
