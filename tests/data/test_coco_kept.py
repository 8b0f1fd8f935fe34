"""The index of an annotation file that is kept is the one that is made, as long as the file is the same."""

import json
import os
import pickle
import shutil
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lk_downstream import trust
from lk_downstream.data import Coco, CocoPanoptic, DetectionData, coco_kept
from lk_downstream.data.coco_index import make_index
from lk_downstream.errors import InputError

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


def test_a_file_that_is_scored_by_is_parsed_once(root, monkeypatch):
    parsed, read = [], trust.read_json
    monkeypatch.setattr(trust, "read_json", lambda path: parsed.append(path) or read(path))
    for options in ({}, {"val_fraction": 0.5}):
        for _ in range(2):  # with nothing in the cache, and with the index in it
            data = DetectionData(partial(Coco, root=str(root)), train_split="val", workers=0, **options)
            data.setup("validate")
            assert len(pickle.dumps(data.val_data)) < 9000
            assert [row["id"] for row in data.truth()["annotations"]] == list(range(14))
            assert len(parsed) == 1
            parsed.clear()
        assert [row["id"] for row in data.truth()["annotations"]] == list(range(14))  # also when asked again
        parsed.clear()
        shutil.rmtree(root / "cache")
    data = DetectionData(partial(Coco, root=str(root)), train_split="val", workers=0)
    data.setup("validate")
    data.listing()
    assert data.val_data._parsed is None


def test_what_processes_that_do_not_score_know(root, monkeypatch):
    data = DetectionData(partial(Coco, root=str(root)), train_split="val", workers=0)
    truth, listing = data.truth(), data.listing()
    assert {row["id"] for row in listing["images"]} == {row["id"] for row in truth["images"]}
    assert {(row["id"], row["name"]) for row in truth["categories"]} == {
        (row["id"], row["name"]) for row in listing["categories"]
    }
    monkeypatch.setattr(trust, "read_json", lambda path: pytest.fail("it was parsed again"))
    data.listing()


def panoptic(root, content):
    for folder in ("val2017", "annotations/panoptic_val2017"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("ü.png", "b.png"):
        Image.new("RGB", (8, 6)).save(root / "val2017" / name)
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[:3, :4, 0], pixels[3:, 4:, 1] = 7, 3
        Image.fromarray(pixels).save(root / "annotations/panoptic_val2017" / name)
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return CocoPanoptic("val", root)


def test_segments_that_are_kept_are_those_that_are_made(tmp_path, monkeypatch):
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "cache"))
    content = {
        "images": [{"id": 5, "file_name": "ü.png"}, {"id": 3, "file_name": "b.png"}],
        "categories": [{"id": 4, "name": "wall"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {
                "image_id": number,
                "file_name": name,
                "segments_info": [
                    {"id": 768, "category_id": 2 + number % 3, "iscrowd": 0},
                    {"id": 7, "category_id": 2},
                ],
            }
            for number, name in ((3, "b.png"), (5, "ü.png"))
        ],
    }
    made = panoptic(tmp_path, content)
    assert not isinstance(made.segments.ids, np.memmap)
    monkeypatch.setattr(coco_kept, "KEEP_FROM", 0)
    first = CocoPanoptic("val", tmp_path)
    first.prepare()
    monkeypatch.setattr(trust, "read_json", lambda path: pytest.fail("it was parsed again"))
    for dataset in (first, CocoPanoptic("val", tmp_path), pickle.loads(pickle.dumps(first))):
        assert isinstance(dataset.segments.ids, np.memmap)
        assert dataset.samples == made.samples
        assert [name for name, _, _ in dataset.samples] == ["b", "ü"]
        for one, other in zip(dataset.segments[:-1], made.segments):
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist()
        for number in range(2):
            assert dataset[number]["mask"].tolist() == made[number]["mask"].tolist()
    assert set(np.unique(made[0]["mask"])) == {0, 255}
    assert set(np.unique(made[1]["mask"])) == {0, 1, 255}
    monkeypatch.undo()
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_kept, "KEEP_FROM", 0)
    content["categories"][0]["name"] = "ball"
    assert panoptic(tmp_path, content).classes == ("cat", "ball")
    content["annotations"][1]["segments_info"][0]["category_id"] = 2
    assert set(np.unique(panoptic(tmp_path, content)[1]["mask"])) == {0, 255}
    panoptic(tmp_path, {**content, "annotations": [{"image_id": 3}]})
    with pytest.raises(InputError, match=r"is no panoptic annotation file of COCO \(KeyError"):
        len(CocoPanoptic("val", tmp_path))
    for name in ("val2017/b.png", "annotations/panoptic_val2017/b.png"):
        panoptic(tmp_path, content)
        (tmp_path / name).unlink()
        with pytest.raises(InputError, match=r"lists b\.png, which .* lacks: add the files"):
            len(CocoPanoptic("val", tmp_path))
