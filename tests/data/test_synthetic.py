import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from lk_downstream.data import ADE20K, Cityscapes, Synthetic
from lk_downstream.data import synthetic_layouts as layouts
from lk_downstream.data.synthetic import complete_folder
from lk_downstream.errors import InputError

SMALL = Synthetic(train=12, val=6, size=(64, 80))


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "write", [layouts.write_ade20k, layouts.write_cityscapes, layouts.write_imagenet, layouts.write_coco]
)
def test_same_seed_same_files(tmp_path, write):
    write(tmp_path / "one", SMALL)
    write(tmp_path / "two", SMALL)
    write(tmp_path / "other", Synthetic(train=12, val=6, size=(64, 80), seed=1))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("dataset", "count"), [(ADE20K, 8), (Cityscapes, 8)])
def test_every_class_and_the_unlabelled_zone_occur(tmp_path, dataset, count):
    dataset("train", tmp_path / "data").write_synthetic(SMALL)
    for split in ("train", "val"):
        data = dataset(split, tmp_path / "data")
        values = np.unique(np.concatenate([data[index]["mask"].numpy().ravel() for index in range(len(data))]))
        assert len(values) == count + 1
        assert values[-1] == 255


def test_ade20k_has_the_last_class_and_real_names(tmp_path):
    layouts.write_ade20k(tmp_path / "ade", SMALL)
    names = sorted(files(tmp_path / "ade"))
    assert names[0] == "annotations/training/ADE_train_00000001.png"
    assert "images/validation/ADE_val_00000006.jpg" in names
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "ade/annotations/training").iterdir()]
    assert {int(mask.min()) for mask in masks} == {0}
    assert max(int(mask.max()) for mask in masks) == 150


def test_imagenet_layout(tmp_path):
    layouts.write_imagenet(tmp_path / "imagenet", SMALL)
    wnids = {look.name for look in layouts.IMAGENET_LOOKS}
    for split in ("train", "val"):
        assert {path.name for path in (tmp_path / "imagenet" / split).iterdir()} == wnids
    assert (tmp_path / "imagenet/val/n01440764/ILSVRC2012_val_00000006.JPEG").is_file()


def test_coco_layout(tmp_path, capsys):
    layouts.write_coco(tmp_path / "coco", SMALL)
    coco = COCO(str(tmp_path / "coco/annotations/instances_train2017.json"))
    assert coco.getCatIds() == [1, 3, 13, 37, 53, 90]
    content = json.loads((tmp_path / "coco/annotations/instances_train2017.json").read_text(encoding="utf-8"))
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert len(crowds) == 3
    assert any(not coco.getAnnIds(imgIds=image["id"]) for image in content["images"] if image["id"] % 20 == 10)
    for image in content["images"]:
        assert (tmp_path / "coco/train2017" / image["file_name"]).is_file()
    for entry in content["annotations"]:
        mask = coco.annToMask(entry)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = entry["bbox"]
        assert abs(mask.sum() - entry["area"]) <= 0.12 * entry["area"] + 4
        assert np.allclose(
            [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], [x, y, x + width, y + height], atol=1.5
        )
        if entry["iscrowd"]:
            sizes = entry["segmentation"]["size"]
            assert coco_mask.area(coco_mask.frPyObjects(entry["segmentation"], *sizes)) == entry["area"]


def test_nothing_half_written_is_left(tmp_path):
    def interrupted():
        with complete_folder(tmp_path / "parent" / "data") as folder:
            (folder / "half").write_text("x", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "parent").iterdir()) == []


def test_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"data exists already: remove it, or name another folder"):
        layouts.write_ade20k(tmp_path / "data", SMALL)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*file/data"):
        layouts.write_ade20k(tmp_path / "file" / "data", SMALL)


def test_folder_made_meanwhile_by_another_process_stays(tmp_path):
    with complete_folder(tmp_path / "data") as folder:
        (folder / "mine").write_text("x", encoding="utf-8")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "theirs").write_text("y", encoding="utf-8")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "theirs"]
