"""The same objects in the forms that annotation tools write: the same boxes, labels and metrics from each."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from box_forms import FORMS, as_voc, as_yolo, in_boxes, rewritten
from PIL import Image

from lk_downstream.data import Coco, DetectionData, Synthetic, Voc, Yolo
from lk_downstream.data.box_formats import corners, other_forms
from lk_downstream.data.voc import parse_file
from lk_downstream.data.yolo import labels_of
from lk_downstream.errors import InputError
from lk_downstream.metrics import CocoEvaluator


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Generated data without crowds, and with boxes of whole pixels, as all forms can hold."""
    root = tmp_path_factory.mktemp("data") / "coco"
    Coco("train", root).write_synthetic(Synthetic(train=6, val=3, size=(64, 96)))
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}2017.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in content["annotations"] if not row["iscrowd"]]
        for row in rows:
            x1, y1, w, h = row["bbox"]
            x1, y1, x2, y2 = (round(value) for value in (x1, y1, x1 + w, y1 + h))
            row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        content["annotations"] = rows
        path.write_text(json.dumps(content), encoding="utf-8")
    return root


def metrics(data):
    """Those of detections that lie a little beside the truth, some of them of a wrong class."""
    evaluator = CocoEvaluator(data.truth(), data.category_ids)
    generator = np.random.default_rng(0)
    for item in data.val_data:
        target = item["target"]
        boxes = target["boxes"].as_subclass(torch.Tensor) + torch.from_numpy(
            generator.integers(-3, 4, target["boxes"].shape)
        )
        labels = torch.where(torch.from_numpy(generator.random(len(boxes)) < 0.2), 0, target["labels"])
        scores = torch.from_numpy(generator.random(len(boxes)))
        evaluator.update([target["image_id"]], [{"boxes": boxes, "labels": labels, "scores": scores}])
    return evaluator.compute()


@pytest.mark.filterwarnings("ignore:.*which (images|categories) does not list")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(coco, tmp_path, form):
    root, other = FORMS[form](coco, tmp_path / "other")
    kind, options = (other, {}) if isinstance(other, type) else (Coco, other)
    expected, found = (
        DetectionData(lambda split, kind=kind, root=root, options=options: kind(split, str(root), **options))
        for kind, root, options in ((Coco, coco, {}), (kind, root, options))
    )
    assert found.classes == expected.classes
    for split in ("train_data", "val_data"):
        one, two = getattr(expected, split), getattr(found, split)
        assert len(one) == len(two)
        assert len(one.index.boxes) > 3
        np.testing.assert_allclose(two.index.boxes, one.index.boxes, rtol=0, atol=1e-9)
        assert two.index.labels.tolist() == one.index.labels.tolist()
        assert all(torch.equal(first["image"], second["image"]) for first, second in zip(one, two))
    assert metrics(found) == metrics(expected)
    assert 0.1 < metrics(found)["bbox_AP"] < 0.9


def test_yolo_polygons_are_masks(coco, tmp_path):
    dataset = Yolo("train", str(as_yolo(coco, tmp_path / "yolo", polygons=True)), masks=True)
    for item in dataset:
        for mask, (x1, y1, x2, y2) in zip(item["target"]["masks"], item["target"]["boxes"].int().tolist()):
            assert mask[y1:y2, x1:x2].all()
            assert mask.sum() == (y2 - y1) * (x2 - x1)


@pytest.mark.parametrize("form", ["xyxy", "relative_xywh", "relative_xyxy", "relative_cxcywh"])
def test_boxes_of_another_form_are_recognised(coco, tmp_path, form):
    with pytest.raises(InputError, match=rf"set data\.dataset\.box_format to .*{form}"):
        len(Coco("train", str(rewritten(coco, tmp_path / "other", in_boxes(form)))))


def test_boxes_of_their_own_form_are_not_doubted():
    generator = np.random.default_rng(0)
    for _ in range(200):
        count = generator.integers(1, 9)
        sizes = generator.integers(20, 600, (count, 2)).astype(float)
        first = generator.random((count, 2)) * (sizes - 4)
        boxes = np.concatenate((first, 2 + generator.random((count, 2)) * (sizes - first - 2)), axis=1)
        assert other_forms(boxes, sizes) == []
        assert (corners(boxes, sizes, "xywh")[:, :2] == boxes[:, :2]).all()


def test_a_root_category_with_objects_is_a_class(coco, tmp_path):
    def change(content, sizes):
        for kind in content["categories"]:
            kind["supercategory"] = "thing"
        content["categories"].append({"id": 200, "name": "thing", "supercategory": "none"})
        content["annotations"].append({**content["annotations"][0], "id": 9000, "category_id": 200})

    assert "thing" in Coco("train", str(rewritten(coco, tmp_path / "other", change))).classes


def test_a_file_of_a_test_set(coco, tmp_path):
    root = rewritten(coco, tmp_path / "other", lambda content, sizes: content.pop("annotations"))
    dataset = Coco("val", str(root))
    with pytest.warns(UserWarning, match="has no annotations, as the files of test sets"):
        assert len(dataset) == 3
    assert len(dataset[0]["target"]["boxes"]) == 0


def test_the_files_that_are_there_are_named(coco, tmp_path):
    shutil.copytree(coco, tmp_path / "other")
    (tmp_path / "other/annotations").rename(tmp_path / "other/valid")
    with pytest.raises(InputError, match=r"but valid/instances_train2017\.json, valid/.*data\.dataset\.annotations"):
        len(Coco("val", str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 0.5 0.5 0.2", "line 2 has 3 numbers after the class"),
        ("99 0.5 0.5 0.2 0.2", "line 2 is of the class 99, and .*data.yaml names 1 to 90"),
        ("1 50 50 20 20", r"line 2 has the value 50, where fractions .* divide by its size of 96 x 64"),
        ("cat 0.5 0.5 0.2 0.2", "line 2 holds something else than numbers: 'cat 0.5"),
        ("1 nan 0.5 0.2 0.2", "line 2 has the value nan, where fractions"),
    ],
)
def test_wrong_lines(coco, tmp_path, line, words):
    root = as_yolo(coco, tmp_path / "yolo")
    path = min((root / "train/labels").iterdir())
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{path.name}: {words}"):
        len(Yolo("train", str(root)))


@pytest.mark.parametrize("form", ["Coco", "Yolo", "Voc"])
def test_ids_without_annotations(coco, tmp_path, form):
    if form == "Coco":
        dataset = Coco("val", str(coco))
    elif form == "Yolo":
        dataset = Yolo("val", str(as_yolo(coco, tmp_path / "other")))
    else:
        dataset = Voc("val", str(as_voc(coco, tmp_path / "other", False)))
    expected = dict(zip(dataset.index.files, dataset.index.image_ids.tolist()))
    assert dataset.image_ids() == expected


def test_places_of_yolo_files(tmp_path):
    assert labels_of(Path("a/images/b/images/c/x.jpg")) == Path("a/images/b/labels/c/x.txt")
    assert labels_of(Path("a/b/images")) == Path("a/b/images.txt")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images/a.png")
    (tmp_path / "list.txt").write_text("images/a.png\n", encoding="utf-8")
    (tmp_path / "data.yaml").write_text("path: elsewhere\nval: [list.txt, images]\nnames: [x]", encoding="utf-8")
    assert Yolo("val", str(tmp_path)).index.sizes.tolist() == [[6, 8], [6, 8]]
    with pytest.raises(InputError, match=r"has no split 'train'; it has val"):
        len(Yolo("train", str(tmp_path)))


def test_hostile_xml(tmp_path):
    path = tmp_path / "a.xml"
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 10}">' for i in range(9))
    for text in (
        f"<!DOCTYPE a [{entities}]><annotation><object><name>&e8;</name></object></annotation>",
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><object><name>&f;</name></object></annotation>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><annotation/>',
        "<a>" * 100_000,
        "",
        "\x00",
    ):
        for encoding in ("utf-8", "utf-16"):
            path.write_text(text, encoding=encoding)
            with pytest.raises(InputError, match=r"a\.xml is no XML file"):
                parse_file(path)
    for text, words in (
        ("<annotation><object><name>a</name></object></annotation>", "an object has no bndbox"),
        ("<annotation><size><width>1e99</width></size></annotation>", "width is '1e99', which is no number"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=words):
            parse_file(path)
