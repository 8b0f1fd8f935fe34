"""Annotation files of COCO's format: what is read, mended, left out and refused."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from lk_downstream.data import Coco, DetectionData, Synthetic
from lk_downstream.data.classes import COCO_CLASSES, COCO_GAPS, bright_palette
from lk_downstream.data.coco_file import load_content
from lk_downstream.data.coco_index import make_index
from lk_downstream.data.coco_lists import read_categories
from lk_downstream.data.coco_outlines import run_lengths
from lk_downstream.data.detection import KEYS
from lk_downstream.errors import InputError
from lk_downstream.metrics.coco_truth import check_outlines, load_annotations


def read_index(path):
    return make_index(path, *load_content(path, **KEYS))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "coco"
    Coco("train", root).write_synthetic(Synthetic(train=12, val=2, size=(60, 80)))
    return root


def write(root, annotations=(), images=None, categories=None, **more):
    """A data set of images of 40 x 30 with the given annotations, each completed to a valid one."""
    images = [{"id": 1}, {"id": 7}] if images is None else images
    folder = root / "val2017"
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        image.update({"file_name": f"{image['id']}.png", "height": 30, "width": 40} | image)
        Image.new("RGB", (40, 30)).save(folder / image["file_name"])
    complete = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 10, 10], "iscrowd": 0, "area": 100}
    complete["segmentation"] = [[5, 5, 15, 5, 15, 15, 5, 15]]
    content = {
        "images": images,
        "annotations": [{"id": 10 + i, **complete, **entry} for i, entry in enumerate(annotations)],
        "categories": categories or [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
        **more,
    }
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return Coco("val", root, masks=True)


def test_generated_data_against_pycocotools(generated, capsys):
    dataset = Coco("train", generated, masks=True)
    reference = COCO(str(generated / "annotations/instances_train2017.json"))
    assert dataset.classes == tuple(reference.cats[number]["name"] for number in sorted(reference.cats))
    assert list(dataset.categories) == [1, 3, 13, 37, 53, 90]
    assert len(dataset) == len(reference.imgs) == 12
    crowds = empty = 0
    for item in dataset:
        target = item["target"]
        expected = reference.imgToAnns[target["image_id"]]
        assert item["image"].shape[-2:] == tuple(target["original_size"].tolist()) == (60, 80)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) == len(expected)
        for number, annotation in enumerate(expected):
            x, y, width, height = annotation["bbox"]
            assert target["boxes"][number].tolist() == pytest.approx([x, y, x + width, y + height], abs=1e-4)
            assert list(dataset.categories)[target["labels"][number]] == annotation["category_id"]
            assert bool(target["iscrowd"][number]) == bool(annotation["iscrowd"])
            assert (target["masks"][number].numpy() == reference.annToMask(annotation)).all()
            crowds += annotation["iscrowd"]
        empty += not expected
    assert crowds
    assert empty


def test_classes_before_there_is_data(tmp_path):
    dataset = Coco("train", tmp_path / "absent")
    assert dataset.classes == COCO_CLASSES
    assert len(COCO_CLASSES) == 80
    assert list(dataset.categories)[11:13] == [13, 14]
    assert not set(COCO_GAPS) & dataset.categories.keys()
    assert len(set(bright_palette(80))) == 80
    with pytest.raises(InputError, match=r"there is no folder .*absent; expected under it train2017/ and annotations/"):
        len(dataset)


def test_own_folders_and_files(tmp_path):
    write(tmp_path, [{}])
    (tmp_path / "val2017").rename(tmp_path / "images")
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "val.json")
    dataset = Coco("val", tmp_path, images="images", annotations="{split}.json")
    assert dataset.classes == ("cat", "dog")
    assert dataset[0]["target"]["labels"].tolist() == [0]
    assert "masks" not in dataset[0]["target"]
    assert len(dataset[1]["target"]["boxes"]) == 0
    with pytest.raises(InputError, match="COCO's own layout"):
        dataset.write_synthetic(Synthetic())


def test_the_images_of_a_test_split_have_no_annotations(tmp_path):
    write(tmp_path)
    (tmp_path / "val2017").rename(tmp_path / "test2017")
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["annotations"]
    (tmp_path / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content), encoding="utf-8")
    file.unlink()
    data = DetectionData(partial(Coco, root=str(tmp_path)), val_split="test-dev", workers=0)
    assert data.classes == ("cat", "dog")
    with pytest.warns(UserWarning, match="has no annotations, as the files of test sets"):
        data.setup("validate")
    assert [item["name"] for item in data.val_set] == ["1", "7"]
    file.with_name("instances_test2017.json").write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    assert Coco("test", tmp_path).annotations.name == "instances_test2017.json"  # of one's own


def test_masks_of_every_kind(tmp_path):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:15, 5:15] = 1
    code = rle.encode(np.asfortranarray(mask))
    code = {"size": [30, 40], "counts": code["counts"].decode()}
    numbers = {"size": [30, 40], "counts": run_lengths(code["counts"])}
    polygons = [[5, 5, 15, 5, 15, 15, 5, 15], [0, 0, 1, 1]]  # the second is no polygon
    dataset = write(tmp_path, [{"segmentation": outline} for outline in (code, numbers, polygons)])
    assert (dataset[0]["target"]["masks"].numpy() == mask).all()
    assert dataset[1]["target"]["masks"].shape == (0, 30, 40)


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_pycocotools(seed):
    random = np.random.RandomState(seed)
    for _ in range(20):
        mask = (random.rand(random.randint(1, 60), random.randint(1, 60)) > random.rand()).astype(np.uint8)
        code = rle.encode(np.asfortranarray(mask))
        runs = run_lengths(code["counts"])
        again = rle.frPyObjects({"size": list(mask.shape), "counts": runs}, *mask.shape)
        assert again["counts"] == code["counts"]
        assert sum(runs) == mask.size


def test_boxes_are_clipped_or_left_out_and_counted(tmp_path):
    boxes = [
        [5, 5, 10, 10],
        [-5, 20, 10, 20],  # reaches beyond
        [30.5, 2, 10, 5],  # within rounding
        [5, 5, -3, 4],  # negative
        [50, 5, 10, 10],  # outside
        [5, 5, 0.5, 10],  # less than a pixel
        [5, 5, 1, 1],  # one pixel
    ]
    dataset = write(tmp_path, [{"bbox": box} for box in boxes])
    with pytest.warns(UserWarning, match="instances_val2017.json: 1 annotations reach beyond") as caught:
        index = dataset.index
    assert index.boxes.tolist() == [[5, 5, 15, 15], [0, 20, 5, 30], [30.5, 2, 40, 7], [5, 5, 6, 6]]
    assert "clipped to it (ids 11)" in str(caught[0].message)
    assert "3 annotations have a box of less than a pixel in their image and were left out (ids 13, 14, 15)" in str(
        caught[0].message
    )


def test_polygons_of_too_few_points_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, [{"segmentation": [[1, 1, 2, 2]]}, {"segmentation": [[1, 1, 5, 1, 5, 5]]}]).annotations
    index = read_index(path)
    assert index.ids.tolist() == [11]
    assert index.notes == [
        f"{path}: 1 annotations have polygons of fewer than three points alone and were left out (ids 10)"
    ]


@pytest.mark.parametrize(
    ("outline", "sentence"),
    [
        (None, r"1 annotations have no segmentation \(ids 10\): set data.masks to false"),
        ([1, 2, 30, 2, 30, 30], "annotation 10 has a segmentation that is no list of polygons"),
        ([[[1, 2], [30, 2], [30, 30]]], "annotation 10 has a segmentation that is no list of polygons"),
        ([[1, 2, None, 2, 30, 30]], "annotation 10 has a polygon whose points are no pixels"),
        ([[1, 2, 3e12, 2, 30, 30]], "annotation 10 has a polygon whose points are no pixels"),
        ({"size": None, "counts": [1200]}, "annotation 10 has run lengths of the size None"),
        ({"size": [30, 40], "counts": [100, 100]}, "annotation 10 has broken run lengths: they do not fill 30 x 40"),
        ({"size": [30, 40], "counts": [-10, 1210]}, "annotation 10 has broken run lengths"),
        ({"size": [30, 40], "counts": "abc"}, "annotation 10 has broken run lengths"),
        ({"size": [30, 40], "counts": "é"}, "annotation 10 has broken run lengths"),
        ({"size": [40, 30], "counts": [1200]}, r"annotation 10 has run lengths of the size \[40, 30\]"),
        ({"counts": [1200]}, "annotation 10 has a segmentation that is neither"),
        (5, "annotation 10 has a segmentation that is neither"),
    ],
)
def test_broken_masks(tmp_path, outline, sentence):
    dataset = write(tmp_path, [{"segmentation": outline}])
    with pytest.raises(InputError, match=f"instances_val2017.json: {sentence}"):
        dataset[0]
    dataset.masks = False
    assert len(dataset[0]["target"]["boxes"]) == 1


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ({"category_id": 4}, r"no annotation has a category_id that categories lists \(it lists 3, 9; the annot"),
        ({"image_id": 2}, "no annotation has an image_id that images lists"),
        ({"bbox": [1, 2, 3]}, r"annotation 10 has the bbox \[1, 2, 3\], which is not \[x, y, width, height\]"),
        ({"bbox": [1, 2, None, 3]}, "annotation 10 has the bbox"),
        ({"bbox": [1, 2, float("nan"), 3]}, r"annotation 10 has the bbox \[1, 2, nan, 3\]"),
        ({"bbox": [10**400, 2, 3, 3]}, "annotation 10 has the bbox"),
        ({"image_id": [1]}, r"annotation 10 has the image_id \[1\], which is not a whole number"),
        ({"category_id": None}, "annotation 10 has the category_id None, which is not a whole number"),
        ({"iscrowd": "0"}, "annotation 10 has the iscrowd '0', which is not 0 or 1"),
        ({"area": "12"}, "annotation 10 has the area '12', which is not a number"),
    ],
)
def test_wrong_annotations(tmp_path, annotation, sentence):
    with pytest.raises(InputError, match=f"instances_val2017.json: {sentence}"):
        len(write(tmp_path, [annotation]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1, 2]", "no list images and no list annotations and no list categories"),
        ('{"images": []}', "no list categories"),
        ('{"images": [', "it is not JSON"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "entry 0 of images"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "entry 0 of categories .id 1. has no name"),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": -3, "width": 4}], "annotations": [], '
            '"categories": [{"id": 1, "name": "a"}]}',
            "entry 0 of images has the height -3, which is not a number of pixels",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "categories has the id 'x'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "the category 1 twice",
        ),
    ],
)
def test_files_that_are_no_annotation_files(tmp_path, text, sentence):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"mine.json.*{sentence}"):
        read_index(path)
    with pytest.raises(InputError, match=r"cannot read the annotation file .*absent\.json"):
        read_index(tmp_path / "absent.json")


def test_missing_and_wrong_images(tmp_path):
    dataset = write(tmp_path, [{}])
    Image.new("RGB", (30, 40)).save(tmp_path / "val2017" / "1.png")
    with pytest.raises(InputError, match=r"1.png is 30 x 40 .*, but .*json says 40 x 30 of image 1"):
        dataset[0]
    (tmp_path / "val2017" / "7.png").unlink()
    with pytest.raises(InputError, match=r"lists 2 images, 1 of which are missing, the first is \S+7.png \(id 7\)"):
        len(Coco("val", tmp_path))


def test_categories_without_parsing_the_rest(tmp_path):
    path = write(tmp_path).annotations
    assert read_categories(path) == {3: "cat", 9: "dog"}
    path.write_text(path.read_text(encoding="utf-8") + "{", encoding="utf-8")  # the rest is broken
    assert read_categories(path) == {3: "cat", 9: "dog"}
    path.write_text(
        json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "more": [1]}]}),
        encoding="utf-8",
    )
    assert read_categories(path) == {1: "a"}  # nested: by parsing everything
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": rows}), encoding="utf-8")
    with pytest.raises(InputError, match="the category name a twice"):
        read_categories(path)


def test_items_are_what_torch_wants(generated):
    item = Coco("val", generated)[0]
    assert item["image"].dtype == torch.uint8
    assert item["target"]["boxes"].dtype == torch.float32
    assert item["target"]["labels"].dtype == torch.int64
    assert item["target"]["iscrowd"].dtype == torch.bool
    assert item["name"] == "000000500001"


@pytest.mark.parametrize("ids", [[0, 1, 2], [5, 5, 5], [1.5, 2, 3], ["a", "b", "c"], [None, 1, 2]])
def test_ids_of_annotations_may_be_anything(tmp_path, ids):
    index = write(tmp_path, [{"id": number} for number in ids]).index
    assert len(set(index.ids.tolist())) == 3
    assert any("counted here" in note for note in index.notes) == (ids != [0, 1, 2])


def test_crowds_are_counted_and_ignored_objects_are_crowds(tmp_path):
    index = write(tmp_path / "a", [{"iscrowd": 1}, {"iscrowd": 1}, {}]).index
    assert index.crowd.tolist() == [True, True, False]
    assert any("2 of 3 annotations are crowds (iscrowd 1, as CVAT's brush" in note for note in index.notes)
    index = write(tmp_path / "b", [{"ignore": 1}, {"ignore": 0}, {}]).index
    assert index.crowd.tolist() == [True, False, False]
    assert index.notes == [f"{index.path}: 1 annotations are to be ignored (ignore 1), and count as crowds (iscrowd 1)"]


def test_nothing_but_crowds_is_refused_for_training(tmp_path):
    write(tmp_path, [{"iscrowd": 1}, {"ignore": 1}])
    (tmp_path / "train2017").symlink_to("val2017")
    (tmp_path / "annotations/instances_train2017.json").symlink_to("instances_val2017.json")
    data = DetectionData(lambda split: Coco(split, tmp_path))
    with (
        pytest.warns(UserWarning, match="2 of 2 annotations are crowds"),
        pytest.raises(InputError, match=r"nothing to train on: all 2 annotations are crowds .* set iscrowd to 0"),
    ):
        data.setup("fit")


HUGE = [1e6 * (number % 2) for number in range(200_002)]  # points from border to border
OUTLINES = {
    "overflowing": {"size": [30, 40], "counts": [2**62] * 3 + [2**62 + 1200]},
    "negative": {"size": [30, 40], "counts": [-5, 1205]},
    "huge": {"size": [30, 40], "counts": [10**30]},
    "code of one huge number": {"size": [30, 40], "counts": "o" * 100_000},
    "code of huge numbers": {"size": [30, 40], "counts": "ooooooooooooO" * 4},
    "many points": [HUGE],
    "many polygons": [[1, 1, 5, 1, 5, 5]] * 10_001,
    "deep": json.loads("[" * 500 + "]" * 500),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_that_would_do_harm(tmp_path, name):
    dataset = write(tmp_path, [{"segmentation": OUTLINES[name]}])
    with pytest.raises(InputError, match=r"instances_val2017\.json: annotation 10 has ") as error:
        dataset[0]
    assert len(str(error.value)) < 500
    with pytest.raises(InputError, match="annotation 10 has "):
        check_outlines(load_annotations(dataset.annotations), dataset.annotations)


def test_an_image_of_too_many_pixels(tmp_path, monkeypatch):
    image = {"id": 1, "height": 10**6, "width": 10**6}
    with pytest.raises(InputError, match=r"json: image 1 is too large .* raise LK_MAX_PIXELS"):
        read_index(write(tmp_path, [{}], [image]).annotations)
    monkeypatch.setenv("LK_MAX_PIXELS", "1e13")
    assert len(read_index(write(tmp_path, [{}], [image]).annotations).files) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"categories": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "is not JSON"),
        (b"", "is not JSON"),
        (b"\x00\xff" * 100, "is not JSON"),
    ],
)
def test_json_that_is_none(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_index, read_categories, load_annotations):
        with pytest.raises(InputError, match=rf"a\.json .*{words}"):
            read(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_of_other_encodings(tmp_path, encoding):
    path = write(tmp_path, [{}]).annotations
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert read_index(path).categories == read_categories(path) == {3: "cat", 9: "dog"}
