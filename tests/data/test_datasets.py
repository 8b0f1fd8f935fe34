import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.data import ADE20K, Cityscapes, SegmentationFolder, Synthetic
from lk_downstream.data.classes import default_palette
from lk_downstream.data.labels import label_table
from lk_downstream.errors import InputError


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three classes, two training images of 8 x 6."""
    for name in ("a", "b"):
        write(tmp_path / f"images/train/{name}.jpg", np.full((6, 8, 3), 90))
        write(tmp_path / f"annotations/train/{name}.png", np.tile([0, 1, 2, 255], (6, 2)))
    (tmp_path / "classes.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    return tmp_path


# ---- what the benchmarks say ----


def test_tables_are_mmsegs():
    from mmseg.datasets import ADE20KDataset, CityscapesDataset

    for ours, theirs in ((ADE20K, ADE20KDataset), (Cityscapes, CityscapesDataset)):
        assert list(ours.classes) == [name.strip() for name in theirs.METAINFO["classes"]]
        assert [list(colour) for colour in ours.palette] == theirs.METAINFO["palette"]


def test_ade20k_counts_from_one(tmp_path):
    values = np.arange(151, dtype=np.uint8).reshape(1, -1)
    for split in ("training", "validation"):
        write(tmp_path / f"images/{split}/x.jpg", np.zeros((1, 151, 3)))
        write(tmp_path / f"annotations/{split}/x.png", values)
    dataset = ADE20K("train", tmp_path)
    assert dataset[0]["mask"].flatten().tolist() == [255, *range(150)]
    assert len(ADE20K("val", tmp_path)) == len(ADE20K("validation", tmp_path)) == 1


def test_cityscapes_ids_become_train_ids(tmp_path):
    known = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
             28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
    values = [*range(34), 255]  # 255: the license plate, -1
    write(tmp_path / "leftImg8bit/train/ulm/ulm_1_2_leftImg8bit.png", np.zeros((1, 35, 3)))
    write(tmp_path / "gtFine/train/ulm/ulm_1_2_gtFine_labelIds.png", [values])
    write(tmp_path / "gtFine/train/ulm/ulm_1_2_gtFine_instanceIds.png", [values])
    write(tmp_path / "gtFine/train/ulm/ulm_1_2_gtFine_color.png", np.zeros((1, 35, 3)))
    item = Cityscapes("train", tmp_path)[0]
    assert item["name"] == "ulm/ulm_1_2"
    assert item["mask"].flatten().tolist() == [known.get(value, 255) for value in values]


@pytest.mark.parametrize("dataset", [ADE20K, Cityscapes])
def test_items(tmp_path, dataset):
    made = dataset("train", tmp_path / "data")
    made.write_synthetic(Synthetic(train=3, val=2, size=(40, 56)))
    assert len(made) == 3
    assert len(dataset("val", tmp_path / "data")) == 2
    item = made[1]
    assert item["image"].shape == (3, 40, 56)
    assert item["mask"].shape == (40, 56)
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    assert len(made.palette) == len(made.classes)


# ---- one's own folder ----


def test_folder(folder):
    dataset = SegmentationFolder("train", str(folder))
    assert dataset.classes == ("one", "two", "three")
    assert dataset.palette == default_palette(3)
    assert [dataset[index]["name"] for index in range(len(dataset))] == ["a", "b"]
    assert dataset[0]["mask"][0].tolist() == [0, 1, 2, 255] * 2


def test_folder_options(folder):
    names = ["x", "y", "z"]
    assert SegmentationFolder("train", folder, classes=names).classes == tuple(names)
    (folder / "other.txt").write_text("x\ny\nz\n", encoding="utf-8")
    assert SegmentationFolder("train", folder, classes=str(folder / "other.txt")).classes == tuple(names)
    (folder / "images/train").rename(folder / "photos")
    dataset = SegmentationFolder("train", folder, images="photos", annotations="annotations/{split}")
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0: 0, 2: 2, 3: 254, 255: 255}),
        ({"ignore_index": 9}, {0: 0, 9: 255, 255: 254}),
        ({"ignore_index": 0}, {0: 255, 1: 1, 255: 254}),
        ({"reduce_zero_label": True}, {0: 255, 1: 0, 3: 2, 4: 254, 255: 255}),
        ({"label_map": {7: 0, 8: 2, 5: 255}}, {7: 0, 8: 2, 5: 255, 1: 1, 6: 254, 255: 255}),
        ({"label_map": {7: 1, 8: 0}, "reduce_zero_label": True}, {7: 0, 8: 255, 0: 255, 3: 2}),
    ],
)
def test_label_table(options, expected):
    table = label_table(3, **options)
    assert {value: int(table[value]) for value in expected} == expected


def test_zero_label_rule_is_mmsegs(tmp_path):
    from mmseg.datasets.transforms import LoadAnnotations

    write(tmp_path / "m.png", np.arange(256).reshape(16, 16))
    # mmseg puts values beyond the classes into the loss, where they fail; of the others the rule is the same
    theirs = {"seg_map_path": str(tmp_path / "m.png"), "reduce_zero_label": True, "seg_fields": []}
    theirs = LoadAnnotations(reduce_zero_label=None, imdecode_backend="pillow")(theirs)["gt_seg_map"].reshape(-1)
    ours = label_table(254, reduce_zero_label=True)
    assert np.array_equal(ours[:255], theirs[:255])


# ---- what bad input gets ----


def test_construction_touches_nothing(tmp_path):
    assert ADE20K("train", tmp_path / "absent").classes[0] == "wall"
    with pytest.raises(
        InputError, match=r"(?s)there is no folder .*absent.images.training; expected .*ADE_train_00000001"
    ):
        len(ADE20K("train", tmp_path / "absent"))


def test_missing_folders(folder):
    with pytest.raises(InputError, match=r"has no split 'trian'; did you mean 'train'\?"):
        len(SegmentationFolder("trian", folder))
    (folder / "images/train").rename(folder / "images/elsewhere")
    (folder / "images/train").mkdir()
    with pytest.raises(InputError, match=r"no image in .*images/train"):
        len(SegmentationFolder("train", folder))
    with pytest.raises(InputError, match=r"(?s)there is no folder .*nowhere/images/train; expected.*classes.txt"):
        len(SegmentationFolder("train", folder / "nowhere", classes=["one"]))
    with pytest.raises(InputError, match=r"Cityscapes has no split 'vali'; did you mean 'val'\?"):
        Cityscapes("vali", folder)
    with pytest.raises(InputError, match="ADE20K has no split 'zzz'; it has train, val, training, validation"):
        ADE20K("zzz", folder)
    with pytest.raises(InputError, match=r"has no split .test.; it has train.* predict them"):
        ADE20K("test", folder)


def test_class_names_that_are_wrong(folder):
    with pytest.raises(InputError, match=r"cannot read the class names from .*x\.txt .*write one name a line"):
        SegmentationFolder("train", folder, classes="x.txt")
    with pytest.raises(InputError, match="classes names one twice"):
        SegmentationFolder("train", folder, classes=["one", "one"])
    with pytest.raises(InputError, match="classes names 0 classes"):
        SegmentationFolder("train", folder, classes=[])
    with pytest.raises(InputError, match="palette has 1 colours, but there are 3 classes"):
        SegmentationFolder("train", folder, palette=[(1, 2, 3)])
    with pytest.raises(InputError, match="ignore_index is -1"):
        SegmentationFolder("train", folder, ignore_index=-1)
    with pytest.raises(InputError, match="label_map has 3: 300"):
        SegmentationFolder("train", folder, label_map={3: 300})
    (folder / "classes.txt").write_bytes("wei\u00df\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes\.txt are not in UTF-8"):
        SegmentationFolder("train", folder)
    (folder / "classes.txt").write_bytes("\ufeffwei\u00df\r\ntwo\r\n".encode())  # as the editor of Windows writes it
    assert SegmentationFolder("train", folder).classes == ("wei\u00df", "two")


def test_image_or_mask_alone(folder):
    (folder / "annotations/train/b.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 images has no mask in .*annotations/train, such as .*b\.jpg: add"):
        len(SegmentationFolder("train", folder))
    (folder / "images/train/b.jpg").unlink()
    write(folder / "annotations/train/c.png", np.zeros((6, 8)))
    with pytest.raises(InputError, match=r"1 of 2 masks has no image in .*images/train, such as .*c\.png"):
        len(SegmentationFolder("train", folder))


def test_same_name_twice(folder):
    write(folder / "images/train/a.png", np.zeros((6, 8, 3)))
    with pytest.raises(InputError, match="have the same name"):
        len(SegmentationFolder("train", folder))


def test_hidden_files_do_not_count(folder):
    (folder / "images/train/._a.jpg").write_text("resource fork", encoding="utf-8")
    assert len(SegmentationFolder("train", folder)) == 2


def test_sizes_that_differ(folder):
    write(folder / "annotations/train/a.png", np.zeros((5, 8)))
    with pytest.raises(
        InputError, match=r"a\.jpg is 8 x 6 but its mask .*a\.png is 8 x 5: they must have the same size"
    ):
        SegmentationFolder("train", folder)[0]


def test_values_outside_the_classes(folder):
    write(folder / "annotations/train/a.png", np.tile([1, 2, 3, 1], (6, 2)))
    sentence = (
        r"a\.png has the label values 3 outside the 3 classes \(it holds 1-3; allowed are 0-2, 255\): "
        r"values 1\.\.3 with 3 classes: set reduce_zero_label true"
    )
    with pytest.raises(InputError, match=sentence):
        SegmentationFolder("train", folder)[0]
    assert SegmentationFolder("train", folder, reduce_zero_label=True)[0]["mask"].max() == 2
    write(folder / "annotations/train/a.png", np.tile([0, 7, 8, 40], (6, 2)))
    with pytest.raises(InputError, match=r"the label values 7-8, 40 outside .*replace values by label_map"):
        SegmentationFolder("train", folder)[0]
    write(folder / "annotations/train/a.png", np.full((6, 8), 255))
    with pytest.raises(InputError, match="the label values 255 outside"):
        SegmentationFolder("train", folder, ignore_index=0)[0]
    write(folder / "annotations/train/a.png", np.tile([0, 7, 8, 40], (6, 2)))
    assert SegmentationFolder("train", folder, label_map={7: 1, 8: 2, 40: 255})[0]["mask"][0, 3] == 255


def test_values_outside_ade20k(tmp_path):
    write(tmp_path / "images/training/x.jpg", np.zeros((2, 2, 3)))
    write(tmp_path / "annotations/training/x.png", [[0, 151], [1, 255]])
    with pytest.raises(
        InputError, match=r"the label values 151, 255 outside the 150 classes .*scene parsing benchmark"
    ):
        ADE20K("train", tmp_path)[0]
