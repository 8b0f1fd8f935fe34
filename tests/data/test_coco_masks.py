"""COCO's panoptic annotations and instances as masks of classes."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from lk_downstream.data import CocoInstances, CocoPanoptic
from lk_downstream.errors import InputError

CATEGORIES = [{"id": 7, "name": "sky"}, {"id": 3, "name": "cat"}]
SIZE = {"height": 8, "width": 10}


def tree(root, kind, annotations, **others):
    (root / "train2017").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(root / "train2017/1.jpg")
    images = [{"id": 1, "file_name": "1.jpg", **SIZE}]
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    path = root / f"annotations/{kind}_train2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | others), encoding="utf-8")


def square(number, category, x, y, side, **others):
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    row = {"id": number, "image_id": 1, "category_id": category, "bbox": [x, y, side, side], "area": side**2}
    return row | {"segmentation": [polygon], "iscrowd": 0} | others


def test_instances(tmp_path):
    crowd = {"segmentation": {"size": [8, 10], "counts": [40, 40]}, "iscrowd": 1}  # the right half
    rows = [square(1, 3, 1, 1, 2), square(2, 7, 0, 0, 6), square(3, 3, 5, 0, 5, bbox=[5, 0, 5, 8], **crowd)]
    tree(tmp_path, "instances", rows)
    dataset = CocoInstances("train", str(tmp_path))
    assert dataset.classes == ("background", "cat", "sky")
    expected = np.zeros((8, 10), int)
    expected[:, 5:] = 255  # below the objects
    expected[:6, :6] = 2
    expected[1:3, 1:3] = 1  # the smaller one on top, though it stands first
    assert dataset[0]["mask"].tolist() == expected.tolist()
    assert pickle.loads(pickle.dumps(dataset))[0]["mask"].tolist() == expected.tolist()
    without = CocoInstances("train", str(tmp_path), background=None)
    assert without.classes == ("cat", "sky")
    assert without[0]["mask"].tolist() == np.array([255, 0, 1, *[255] * 253])[expected].tolist()
    with pytest.raises(InputError, match="has a class 'cat': set background"):
        CocoInstances("train", str(tmp_path), background="cat")
    with pytest.raises(InputError, match=r"\{splt\} stands for nothing"):
        CocoInstances("train", str(tmp_path), images="{splt}")


IDS = np.zeros((8, 10), int)
IDS[:4], IDS[4:, :5], IDS[4:, 5:9] = 5, 70_000, 300
SEGMENTS = [{"id": 70_000, "category_id": 3}, {"id": 5, "category_id": 7, "iscrowd": 0}]
SEGMENTS += [{"id": 300, "category_id": 3, "iscrowd": 1}]


def panoptic(root, segments=SEGMENTS, **others):
    rows = [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]
    tree(root, "panoptic", **{"annotations": rows} | others)
    path = root / "annotations/panoptic_train2017/1.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], -1).astype(np.uint8)).save(path)
    return CocoPanoptic("train", str(root))


def test_panoptic(tmp_path):
    dataset = panoptic(tmp_path)
    assert dataset.classes == ("cat", "sky")
    expected = np.full((8, 10), 255)
    expected[:4], expected[4:, :5] = 1, 0
    item = dataset[0]
    assert item["name"] == "1"
    assert item["mask"].tolist() == expected.tolist()


def test_panoptic_files_that_are_wrong(tmp_path):
    with pytest.raises(InputError, match=r"1\.png has segments that .* does not list \(ids 300\)"):
        panoptic(tmp_path, SEGMENTS[:2])[0]
    with pytest.raises(InputError, match=r"no panoptic annotation file of COCO .KeyError: 9"):
        len(panoptic(tmp_path, [{"id": 1, "category_id": 9}]))
    with pytest.raises(InputError, match=r"segments_info.*did you mean 'CocoInstances'"):
        len(panoptic(tmp_path, annotations=[square(1, 3, 1, 1, 2)]))
    with pytest.raises(InputError, match=r"lists 2\.jpg, which .*train2017 lacks"):
        len(panoptic(tmp_path, images=[{"id": 1, "file_name": "2.jpg"}]))
    dataset = panoptic(tmp_path)
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / "annotations/panoptic_train2017/1.png")
    with pytest.raises(InputError, match=r"1\.png is a L image: ids are written as the colours"):
        dataset[0]
    (tmp_path / "annotations/panoptic_train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"there is no folder .*panoptic_train2017"):
        len(panoptic_without_masks(tmp_path))


def panoptic_without_masks(root):
    return CocoPanoptic("train", str(root))
