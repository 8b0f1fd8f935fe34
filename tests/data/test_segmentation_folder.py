"""Layouts of people's own, by options alone; what is proposed where files do not pair."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from lk_downstream.data import SegmentationData, SegmentationFolder
from lk_downstream.errors import InputError

VALUES = np.array([[0, 1, 2], [1, 1, 0]], np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def pair(root, image, mask, values=VALUES):
    write(root / image, np.zeros((2, 3, 3)))
    write(root / mask, values)


# The layout, its files (image, mask, pixels of the mask), the options and what the mask has to be.
LAYOUTS = {
    "coco_stuff_of_mmsegmentation": (
        [("images/train2017/0009.jpg", "annotations/train2017/0009_labelTrainIds.png", VALUES)],
        {"images": "images/{split}2017", "annotations": "annotations/{split}2017", "mask_suffix": "_labelTrainIds.png"},
        VALUES,
    ),
    "deepglobe": (
        [("train/104_sat.jpg", "train/104_mask.png", VALUES * 127)],
        {
            "images": "{split}",
            "annotations": "{split}",
            "image_suffix": "_sat.jpg",
            "mask_suffix": "_mask.png",
            "label_map": {127: 1, 254: 2},
        },
        VALUES,
    ),
    "same_folder": (
        [("train/104.png", "train/104_gt.png", VALUES)],
        {"images": "{split}", "annotations": "{split}", "mask_suffix": "_gt.png"},
        VALUES,
    ),
    "binary": (
        [("images/train/a.jpg", "annotations/train/a.png", (VALUES > 0) * 255)],
        {"binary": True, "classes": None},
        VALUES > 0,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_by_options_alone(tmp_path, layout):
    files, options, expected = LAYOUTS[layout]
    for image, mask, pixels in files:
        pair(tmp_path, image, mask, pixels)
    dataset = SegmentationFolder("train", str(tmp_path), **{"classes": ["a", "b", "c"]} | options)
    assert len(dataset) == len(files)
    assert dataset[0]["mask"].tolist() == np.asarray(expected).astype(int).tolist()
    written = dataset.label_values[dataset[0]["mask"].numpy()]  # what a prediction is written with leads back
    assert (dataset.label_table[written] == np.asarray(expected)).all()


def test_polygons_beside_their_images(tmp_path):
    write(tmp_path / "train/a.jpg", np.zeros((2, 3, 3)))
    shape = {"label": "b", "shape_type": "rectangle", "points": [[0, 0], [1, 0]]}
    content = {"imageHeight": 2, "imageWidth": 3, "imagePath": "a.jpg", "shapes": [shape]}
    (tmp_path / "train/a.json").write_text(json.dumps(content), encoding="utf-8")
    beside = {"images": "{split}", "annotations": "{split}", "mask_suffix": ".json"}
    dataset = SegmentationFolder("train", str(tmp_path), classes=["_background_", "b"], **beside)
    assert dataset[0]["mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
    with pytest.raises(InputError, match="polygons have names: leave out label_map"):
        SegmentationFolder("train", str(tmp_path), classes=["b"], label_map={1: 0}, **beside)


def test_binary_masks_of_antialiased_edges_are_refused(tmp_path):
    pair(tmp_path, "images/train/a.png", "annotations/train/a.png", [[0, 127, 255]])
    with pytest.raises(InputError, match="the label values 127 outside the 2 classes"):
        SegmentationFolder("train", str(tmp_path), binary=True).read_labels(tmp_path / "annotations/train/a.png")
    with pytest.raises(InputError, match="binary masks have two classes, but there are 3"):
        SegmentationFolder("train", str(tmp_path), binary=True, classes=["a", "b", "c"])


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        (["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"], "the masks end in _mask.png: set mask_suffix _mask.png"),
        (["a.jpg", "b.jpg"], ["a.x_L.tif", "b.x_L.tif"], "the masks end in .x_L.tif: set mask_suffix .x_L.tif"),
        (["1_sat.jpg", "2_sat.jpg"], ["1_m.png", "2_m.png"], "set mask_suffix _m.png and image_suffix _sat.jpg"),
        (["1_img.jpg", "2_img.jpg"], ["1.png", "2.png"], "set mask_suffix .png and image_suffix _img.jpg"),
        (["a.jpg", "b.jpg"], ["a.json", "b.json"], "the masks end in .json: set mask_suffix .json"),
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], "its files are JPEG, which changes class numbers: write the masks as"),
        (["a.jpg", "b.jpg"], ["c_mask.png", "d_mask.png"], "add the mask or remove the image"),
    ],
)
def test_what_would_pair_is_proposed(tmp_path, images, masks, words):
    for name in images:
        write(tmp_path / "images/train" / name, np.zeros((2, 3, 3)))
    (tmp_path / "annotations/train").mkdir(parents=True)
    for name in masks:
        (tmp_path / "annotations/train" / name).touch()
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        len(SegmentationFolder("train", str(tmp_path), classes=["a"]))


def test_lists_that_are_wrong(tmp_path):
    pair(tmp_path, "images/seq/frame_1.jpg", "masks/seq/frame_1.png")

    def listed(text, split="train"):
        (tmp_path / "train.txt").write_text(text, encoding="utf-8")
        options = {"images": "images", "annotations": "masks", "lists": "{split}.txt", "classes": ["a", "b", "c"]}
        return [name for name, *_ in SegmentationFolder(split, str(tmp_path), **options).samples]

    assert listed("\ufeffseq\\frame_1.jpg\r\n") == listed("seq/frame_1\n") == ["seq/frame_1"]
    for text, words in (
        ("seq/frame_2", r"train\.txt names seq/frame_2, of which there is no image .*did you mean 'seq/frame_1'"),
        ("\n", "names no image"),
        ("seq/frame_1\nseq/frame_1.jpg", "names seq/frame_1 twice"),
    ):
        with pytest.raises(InputError, match=words):
            listed(text)
    with pytest.raises(InputError, match=r"cannot read the list of names .*trian\.txt.*did you mean 'train\.txt'"):
        listed("seq/frame_1", "trian")


def test_letters_of_two_kinds_pair(tmp_path):
    name = "b\u00e4r"
    pair(tmp_path, f"images/train/{name}.png", f"annotations/train/{unicodedata.normalize('NFD', name)}.png")
    assert SegmentationFolder("train", str(tmp_path), classes=["a", "b", "c"])[0]["name"] == name


def test_paths_of_the_options(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pair(tmp_path, "mine/images/train/a.png", "mine/annotations/train/a.png")
    assert len(SegmentationFolder("train", "~/mine", classes=["a", "b", "c"])) == 1
    with pytest.raises(InputError, match=r"images is 'images/\{splt\}', but \{splt\} stands for nothing"):
        SegmentationFolder("train", str(tmp_path), images="images/{splt}", classes=["a"])
    with pytest.raises(InputError, match=r"there is no folder .*absent: set the data set's root"):
        SegmentationFolder("train", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"images and masks share the folder .*both: set mask_suffix"):
        SegmentationFolder("train", str(tmp_path), images="both", annotations="both", classes=["a"])
    with pytest.raises(InputError, match="mask_colours is true, but palette"):
        SegmentationFolder("train", str(tmp_path), mask_colours=True, classes=["a"])


def test_lists_of_one_folder_are_two_splits(tmp_path, recwarn):
    for name in ("a", "b"):
        pair(tmp_path, f"images/{name}.png", f"masks/{name}.png")
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    options = {"images": "images", "annotations": "masks", "lists": "{split}.txt", "classes": ["a", "b", "c"]}

    def data(val):
        make = lambda split: SegmentationFolder(split, str(tmp_path), **options)  # noqa: E731
        SegmentationData(make, train_split="a", val_split=val).setup("fit")
        return [str(warning.message) for warning in recwarn if "both splits are" in str(warning.message)]

    assert data("b") == []
    assert "a.txt: the metrics will be those of images that were trained on" in data("a")[0]
