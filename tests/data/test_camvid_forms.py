"""Four images of CamVid in every form: the same label maps, to the last pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.data import CocoPanoptic, SegmentationFolder
from lk_downstream.data.classes import default_palette

CAMVID = Path(__file__).parents[3] / "shared/data/camvid"
pytestmark = pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid")


@pytest.fixture(scope="module")
def maps():
    """Name -> label map of four images at a sixth of their size, with unlabelled pixels; and the classes."""
    dataset = SegmentationFolder("val", str(CAMVID))
    items = [dataset[number] for number in range(0, len(dataset), len(dataset) // 4)][:4]
    return {item["name"]: item["mask"].numpy()[::6, ::6] for item in items}, list(dataset.classes)


def read(root, maps, classes, **options):
    """The label maps of a folder, to which the images are added."""
    for name, mask in maps.items():
        path = root / "images/train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(path)
    dataset = SegmentationFolder("train", str(root), classes=classes, **options)
    return {item["name"]: item["mask"].as_subclass(torch.Tensor).numpy() for item in map(dataset.__getitem__, range(4))}


def colour(mask):
    return np.array([*default_palette(11), *[(0, 0, 0)] * 245], np.uint8)[mask]


FORMS = {
    "grey": ("{}.png", lambda m: m, {}),
    "shifted": ("{}.png", lambda m: np.where(m == 255, 0, m + 1).astype(np.uint8), {"reduce_zero_label": True}),
    "suffix": ("{}_gt.tif", lambda m: m, {"mask_suffix": "_gt.tif"}),
    "16 bits": ("{}.png", lambda m: m.astype(np.uint16), {}),
    "colours": ("{}.png", colour, {"mask_colours": [*default_palette(11), (0, 0, 0)], "label_map": {11: 255}}),
    "array": ("{}.npy", lambda m: m.astype(np.int64), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_label_maps_are_the_same(tmp_path, maps, form):
    pattern, change, options = FORMS[form]
    (tmp_path / "annotations/train").mkdir(parents=True)
    for name, mask in maps[0].items():
        path = tmp_path / "annotations/train" / pattern.format(name)
        if path.suffix == ".npy":
            np.save(path, change(mask))
        else:
            Image.fromarray(change(mask)).save(path)
    found = read(tmp_path, *maps, **options)
    assert {name: mask.tolist() for name, mask in found.items()} == {n: mask.tolist() for n, mask in maps[0].items()}
    assert {255, 0} <= set(np.unique(np.concatenate([*map(np.ravel, found.values())])).tolist())


def runs(mask):
    """Runs of equal pixels of a row as LabelMe's rectangles: row, first and last column, value."""
    for row, values in enumerate(mask.tolist()):
        first = 0
        for column, value in enumerate(values):
            if column + 1 == len(values) or values[column + 1] != value:
                yield row, first, column, value
                first = column + 1


def test_label_maps_of_polygons(tmp_path, maps):
    (tmp_path / "annotations/train").mkdir(parents=True)
    for name, mask in maps[0].items():
        shapes = [
            {"label": maps[1][value], "shape_type": "rectangle", "points": [[first, row], [last, row]]}
            for row, first, last, value in runs(mask)
            if value != 255
        ]
        content = {"imageHeight": mask.shape[0], "imageWidth": mask.shape[1], "shapes": shapes}
        (tmp_path / f"annotations/train/{name}.json").write_text(json.dumps(content), encoding="utf-8")
    found = read(tmp_path, *maps, mask_suffix=".json")
    assert {name: mask.tolist() for name, mask in found.items()} == {n: mask.tolist() for n, mask in maps[0].items()}


def test_label_maps_of_panoptic_segments(tmp_path, maps):
    """One segment for each class of an image, with ids beyond a byte."""
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": 10 + number, "name": name} for number, name in enumerate(maps[1])]
    for folder in ("train2017", "annotations/panoptic_train2017"):
        (tmp_path / folder).mkdir(parents=True)
    for number, (name, mask) in enumerate(maps[0].items()):
        ids = np.where(mask == 255, 0, 777 * (mask.astype(int) + 1))
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(tmp_path / f"train2017/{name}.jpg")
        pixels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"annotations/panoptic_train2017/{name}.png")
        content["images"].append({"id": number, "file_name": f"{name}.jpg"})
        present = [int(value) for value in np.unique(mask) if value != 255]
        segments = [{"id": 777 * (value + 1), "category_id": 10 + value} for value in present]
        content["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    (tmp_path / "annotations/panoptic_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    dataset = CocoPanoptic("train", str(tmp_path))
    assert dataset.classes == tuple(maps[1])
    found = {item["name"]: item["mask"].tolist() for item in map(dataset.__getitem__, range(4))}
    assert found == {name: mask.tolist() for name, mask in maps[0].items()}
