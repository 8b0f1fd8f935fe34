"""The options that the README gives for public sets, on small trees that look like the real ones."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser
from PIL import Image

from lk_downstream.data import DataModule

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCK = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if block.startswith("voc:"))
OPTIONS = yaml.safe_load(BLOCK)
VALUES = np.array([[0, 1, 2], [1, 1, 0]], np.uint8)
# Names, colours and order of CamVid's own label_colors.txt; the classes that most papers make of them.
CAMVID = """64 128 64 Animal pedestrian|192 0 128 Archway building|0 128 192 Bicyclist bicyclist
0 128 64 Bridge building
128 0 0 Building building|64 0 128 Car car|64 0 192 CartLuggagePram pedestrian|192 128 64 Child pedestrian
192 192 128 Column_Pole pole|64 64 128 Fence fence|128 0 192 LaneMkgsDriv road|192 0 64 LaneMkgsNonDriv road
128 128 64 Misc_Text sign_symbol|192 0 192 MotorcycleScooter bicyclist|128 64 64 OtherMoving car
64 192 128 ParkingBlock pavement|64 64 0 Pedestrian pedestrian|128 64 128 Road road|128 128 192 RoadShoulder pavement
0 0 192 Sidewalk pavement|192 128 128 SignSymbol sign_symbol|128 128 128 Sky sky|64 128 192 SUVPickupTruck car
0 0 64 TrafficCone pole|0 64 64 TrafficLight sign_symbol|192 64 128 Train car|128 128 0 Tree tree
192 128 192 Truck_Bus car|64 0 64 Tunnel building|192 192 0 VegetationMisc tree|0 0 0 Void -|64 192 0 Wall building"""
CAMVID = [line.split() for line in CAMVID.replace("\n", "|").split("|")]
COLOURS = np.array([row[:3] for row in CAMVID], np.uint8)
ISAID = np.array([[0, 0, 0], [0, 0, 63], [0, 63, 63]], np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def camvid(root):
    (root / "label_colors.txt").write_text("".join("{} {} {}\t{}\n".format(*row) for row in CAMVID), encoding="utf-8")
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text(f"{split}\n", encoding="utf-8")


def voc(root):
    for split in ("train", "val"):
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{split}\n", encoding="utf-8")
    write(root / "JPEGImages/not_segmented.jpg", np.zeros((2, 3, 3)))


def panoptic(root):
    for number, split in enumerate(("train", "val")):
        content = {"images": [{"id": number, "file_name": "a.jpg"}]}
        content["categories"] = [{"id": 5, "name": "tree"}, {"id": 4, "name": "cat"}]
        segments = [{"id": 1, "category_id": 4}, {"id": 2, "category_id": 5}]
        content["annotations"] = [{"image_id": number, "file_name": "a.png", "segments_info": segments}]
        path = root / f"annotations/panoptic_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def named(*names):
    return lambda root: (root / "classes.txt").write_text("\n".join(names), encoding="utf-8")


# Images and masks of the splits ({split} as the options have it), pixels of the mask, what else there is, and the item.
TREES = {
    "voc": ("JPEGImages/{split}.jpg", "SegmentationClass/{split}.png", VALUES, voc, VALUES),
    "coco_stuff": (
        "images/{split}2017/9.jpg",
        "stuffthingmaps/{split}2017/9.png",
        VALUES,
        named("person", "bicycle", "car"),
        VALUES,
    ),
    "coco_panoptic": (
        "{split}2017/a.jpg",
        "annotations/panoptic_{split}2017/a.png",
        np.stack([VALUES, 0 * VALUES, 0 * VALUES], -1),
        panoptic,
        (VALUES.astype(int) - 1) % 256,
    ),
    "mapillary": (
        "{split}/images/aB_c.jpg",
        "{split}/v1.2/labels/aB_c.png",
        np.where(VALUES == 2, 65, VALUES),
        named("Bird", "Ground Animal"),
        np.where(VALUES == 2, 255, VALUES),
    ),
    "loveda": (
        "{split}/Rural/images_png/1.png",
        "{split}/Rural/masks_png/1.png",
        VALUES,
        None,
        (VALUES.astype(int) - 1) % 256,
    ),
    "isaid": (
        "{split}/images/P0003.png",
        "{split}/Semantic_masks/images/P0003_instance_color_RGB.png",
        ISAID[VALUES],
        None,
        VALUES,
    ),
    "camvid": (
        "701_StillsRaw_full/{split}.png",
        "LabeledApproved_full/{split}_L.png",
        COLOURS.reshape(4, 8, 3),
        camvid,
        None,
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_a_public_set_by_its_options(tmp_path, monkeypatch, name):
    image, mask, pixels, others, expected = TREES[name]
    init_args = {"crop_size": 8, "workers": 0, **OPTIONS[name]}
    root = tmp_path / init_args["dataset"]["init_args"]["root"]
    root.mkdir(parents=True)
    for number, split in enumerate((init_args.get("train_split", "train"), init_args.get("val_split", "val"))):
        write(root / image.format(split=split), np.full((*np.shape(pixels)[:2], 3), number))
        write(root / mask.format(split=split), pixels)
    if others:
        others(root)
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    config = {"class_path": "lk_downstream.data.SegmentationData", "init_args": init_args}
    data = parser.instantiate_classes(parser.parse_object({"data": config})).data
    data.setup("fit")
    if name == "camvid":
        expected = [data.classes.index(row[4]) if row[4] != "-" else 255 for row in CAMVID]
        expected = np.reshape(expected, (4, 8))
    for dataset in (data.train_data, data.val_data):
        assert len(dataset) == 1
        sent = pickle.loads(pickle.dumps(dataset))  # as to a loader process that is spawned
        assert dataset[0]["mask"].tolist() == sent[0]["mask"].tolist() == np.asarray(expected).tolist()


def test_no_public_set_is_left_out():
    assert set(OPTIONS) == set(TREES)


@pytest.mark.parametrize(("name", "theirs"), [("voc", "PascalVOC"), ("loveda", "LoveDA"), ("isaid", "iSAID")])
def test_names_and_colours_are_mmsegs(name, theirs):
    from mmseg import datasets

    known, ours = getattr(datasets, f"{theirs}Dataset").METAINFO, OPTIONS[name]["dataset"]["init_args"]
    assert ours["classes"] == list(known["classes"])
    assert ours.get("palette", known["palette"]) == known["palette"]
