"""Masks in every form of file, and what is refused in each."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.data.labelme import read_labelme
from lk_downstream.data.mask_files import Colours, read_colours, read_mask
from lk_downstream.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 200, (5, 7), dtype=np.uint8)
OPAQUE = np.full_like(LABELS, 255)
FORMS = {
    "deep.png": LABELS.astype(np.uint16),
    "deep.tif": LABELS.astype(np.uint16),
    "wide.tif": LABELS.astype(np.int32),
    "alpha.png": np.stack([LABELS, OPAQUE], -1),
    "grey_rgb.png": np.stack([LABELS] * 3, -1),
    "grey_rgba.png": np.stack([LABELS] * 3 + [OPAQUE], -1),
}


@pytest.mark.parametrize("name", FORMS)
def test_images_that_hold_the_same_numbers(tmp_path, name):
    Image.fromarray(FORMS[name]).save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == torch.uint8
    assert mask.tolist() == LABELS.tolist()


@pytest.mark.parametrize("change", [np.asfortranarray, np.int64, lambda a: a[..., None], lambda a: a[None] > 99])
def test_arrays(tmp_path, change):
    np.save(tmp_path / "a.npy", change(LABELS))
    assert read_mask(tmp_path / "a.npy").tolist() == np.squeeze(change(LABELS)).astype(int).tolist()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[-1, 0]]), "64-bit image with the values -1: the numbers of classes are 0 to 254"),
        (np.array([[256, 257, 0]], np.uint16), "16-bit image with the values 256-257"),
        (np.zeros((2, 2), np.float32), r"the type float32: a mask is an array .* of whole numbers"),
        (np.zeros((4, 3, 3), np.uint8), r"has the shape \[4, 3, 3\]"),
        (np.array([[None]]), "is no array of NumPy .it holds object, not numbers"),
        (np.zeros((50, 50), np.uint8), "too large"),
        (b"text", r"is no array of NumPy"),
        (b"\x93NUMPY\1\0\x0a\0{'a': 1}  ", r"is no array of NumPy"),
        ("cut", r"is no array of NumPy .*bytes for the shape"),
    ],
)
def test_arrays_that_are_no_masks(tmp_path, array, words, monkeypatch):
    monkeypatch.setenv("LK_MAX_PIXELS", "1000")
    path = tmp_path / "a.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, LABELS if isinstance(array, str) else array, allow_pickle=True)
    if isinstance(array, str):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=words):
        read_mask(path)


def test_no_array_at_all(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*a\.npy: No such file"):
        read_mask(tmp_path / "a.npy")


def test_transparent_masks_are_refused(tmp_path):
    for number, channels in enumerate((1, 3)):
        pixels = np.stack([LABELS] * channels + [OPAQUE], -1)
        pixels[0, 0, -1] = 254
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        with pytest.raises(InputError, match="transparent in places"):
            read_mask(tmp_path / f"{number}.png")


PALETTE = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (255, 255, 255)]
INDICES = np.random.default_rng(1).integers(0, 4, (6, 5))


def test_colours(tmp_path):
    colours, pixels = Colours(PALETTE), np.array(PALETTE, np.uint8)[INDICES]
    for mode in ("RGB", "RGBA", "P"):
        image = Image.fromarray(pixels)
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        image.save(tmp_path / f"{mode}.png")
        assert read_mask(tmp_path / f"{mode}.png", colours).tolist() == INDICES.tolist()
    pixels[2, 2:4] = 1, 2, 3
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png has 1 colours that are none of its 4 .*\[1, 2, 3\] \(2 pixels\)"):
        read_mask(tmp_path / "odd.png", colours)
    with pytest.raises(InputError, match=r"\[0, 0, 0\] twice"):
        Colours([(0, 0, 0), (0, 0, 0)])
    with pytest.raises(InputError, match=r"has \[0, 300, 0\]: a colour is"):
        Colours([(0, 300, 0)])


def test_files_of_colours(tmp_path):
    path = tmp_path / "colours.txt"
    for text in ("64 128 64\tAnimal 2\n\n192 0 128 Archway\n", "name,r,g,b\nAnimal,64,128,64\nArchway,192, 0, 128\n"):
        path.write_text(text, encoding="utf-8")
        assert read_colours(path) == [(64, 128, 64), (192, 0, 128)]
    path.write_text("1 2 3 a\nb\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"has no colour .* in the line 'b'"):
        read_colours(path)


def labelme(path, shapes, others=()):
    rows = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    content = {"imageHeight": 8, "imageWidth": 10, "shapes": rows} | dict(others)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]


def test_polygons_of_labelme(tmp_path):
    shapes = [("cat", "polygon", SQUARE), ("dog", "rectangle", [[6, 4], [3, 3]])]
    shapes += [("__ignore__", "circle", [[8, 6], [9, 6]])]
    mask = read_labelme(labelme(tmp_path / "a.json", shapes), {"_background_": 0, "cat": 1, "dog": 2})
    expected = np.zeros((8, 10), int)
    expected[1:5, 1:5], expected[3:5, 3:7] = 1, 2  # the later shape lies on top; borders belong to shapes
    expected[[5, 6, 6, 6, 7], [8, 7, 8, 9, 8]] = 255
    assert mask.tolist() == expected.tolist()
    assert (read_labelme(tmp_path / "a.json", {"cat": 0, "dog": 1}) == 255).sum() == (np.isin(expected, (0, 255))).sum()


@pytest.mark.parametrize(
    ("shapes", "others", "words"),
    [
        ([("cta", "polygon", SQUARE)], {}, r"has the label 'cta', which is none of the 2 classes; did you mean 'cat'"),
        ([("cat", "linestrip", SQUARE)], {}, "shape 1 is a linestrip, which has no area .*draw it as a polygon"),
        ([("cat", "polygon", SQUARE[:2])], {}, "a polygon of 2 points"),
        ([("cat", "circle", SQUARE)], {}, "a circle of 4 points"),
        ([("cat", "polygon", [[0, "x"]])], {}, "a polygon of 0 points"),
        ([("cat", "polygon", [*SQUARE, [1e300, 0]])], {}, "a point that is no pixel"),
        ([], {"shapes": 3}, "has no list of shapes"),
        ([], {"imageHeight": None}, "lacks the size of its image"),
        ([], {"imageHeight": 10**6, "imageWidth": 10**6}, "too large"),
    ],
)
def test_annotations_that_cannot_be_drawn(tmp_path, shapes, others, words):
    with pytest.raises(InputError, match=words):
        read_labelme(labelme(tmp_path / "a.json", shapes, others), {"cat": 0, "dog": 1})


def test_no_json(tmp_path):
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is no JSON"):
        read_labelme(tmp_path / "a.json", {})
