"""One way to predict: every kind of input, the same results as the command line's, many threads."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lk_downstream
from lk_downstream.errors import InputError
from lk_downstream.inference.inputs import read_images
from lk_downstream.inference.preparation import PREPARATIONS
from lk_downstream.inference.results import Classification, ClassMap, Detections

TASKS = ("segmentation", "detection", "classification", "multilabel")
FIELDS = ("mask", "boxes", "scores", "labels", "masks", "probabilities")


@pytest.fixture(scope="module")
def models(trained):
    return {task: lk_downstream.load(trained[task]["run"] / "checkpoints/last.ckpt", "cpu") for task in TASKS}


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.suffix in (".png", ".jpg", ".JPEG"))


def same(one, other):
    assert type(one) is type(other)
    for field in FIELDS:
        mine, theirs = getattr(one, field, None), getattr(other, field, None)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


@pytest.mark.parametrize("task", TASKS)
def test_the_command_line_gives_the_same(models, trained, task):
    paths = trained[task]
    results = models[task].predict(paths["images"])
    assert len(results) == len(files(paths["images"])) > 3
    if task == "segmentation":
        for result in results:
            written = np.asarray(Image.open(paths["predicted"] / "labels" / f"{result.name}.png"))
            np.testing.assert_array_equal(result.label_values[result.mask], written)
            assert len(np.unique(result.mask)) > 1
    elif task == "detection":
        for result in results:
            written = json.loads(
                (paths["predicted"] / "detections" / f"{result.name}.json").read_text(encoding="utf-8")
            )
            assert result.rows() == written
        assert any(len(result) for result in results)
    else:
        written = json.loads((paths["predicted"] / "predictions.json").read_text(encoding="utf-8"))
        assert [result.to_dict() for result in results] == written


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_of_input_gives_the_same(models, trained, task):
    model = models[task]
    path = files(trained[task]["images"])[0]
    pixels = np.array(Image.open(path).convert("RGB"))
    expected = model.predict(path)
    tensor = torch.from_numpy(pixels)
    given = [str(path), path.resolve().as_uri(), path.read_bytes(), Image.open(path), pixels, np.asfortranarray(pixels)]
    given += [pixels.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1), tensor / 255, tensor.double().numpy() / 255]
    for x in given:
        same(model.predict(x), expected)
    many = [[path, pixels], (x for x in (path, pixels)), np.stack((pixels, pixels)), tensor.permute(2, 0, 1)[None]]
    for x in many:
        found = model.predict(x)
        assert isinstance(found, list)
        for result in found:
            same(result, expected)
    same(next(model.stream(path)), expected)
    same(model(path), expected)


@pytest.mark.parametrize("task", TASKS)
def test_eight_threads(models, trained, task):
    model, paths = models[task], files(trained[task]["images"])[:3]
    expected = [model.predict(path) for path in paths]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(model.predict, paths * 8))
    for result, wanted in zip(found, expected * 8):
        same(result, wanted)
        assert result.name == wanted.name


def test_sizes_are_mixed_and_batches_bounded(models, monkeypatch):
    model = models["segmentation"]
    assert model.batch_pixels == 1  # on a CPU each image alone: the same bits whatever it comes with
    generator = np.random.default_rng(0)
    sizes = [(40, 50), (40, 50), (33, 70), (40, 50), (40, 50), (40, 50), (1, 9)]
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    batches, run = [], model.preparation.run

    def counted(task, batch, wanted):
        batches.append(len(batch["image"]))
        return run(task, batch, wanted)

    monkeypatch.setattr(model.preparation, "run", counted)
    monkeypatch.setattr(model, "batch_pixels", 40 * 50 * 2)
    found = model.predict(images, layout="HWC")
    assert [result.mask.shape for result in found] == sizes
    assert batches == [2, 1, 2, 1, 1]
    for image, result in zip(images, found):
        assert (model.predict(image, layout="HWC").mask == result.mask).mean() > 0.99


def test_probabilities_and_top(models, trained):
    for task in ("segmentation", "classification", "multilabel"):
        path = files(trained[task]["images"])[0]
        plain, full = models[task].predict(path), models[task].predict(path, probabilities=True)
        assert len(full.probabilities) == len(full.classes)
        if task == "segmentation":
            np.testing.assert_array_equal(plain.mask, full.probabilities.argmax(0))
            np.testing.assert_allclose(full.probabilities.sum(0), 1, atol=1e-5)
        else:
            assert models[task].predict(path, top=2).labels.tolist() == plain.labels[:2].tolist()
            np.testing.assert_array_equal(full.probabilities[full.labels], full.scores)
            assert (abs(full.probabilities.sum() - 1) < 1e-4) == (task == "classification")
    with pytest.raises(InputError, match="leave them out"):
        models["detection"].predict(np.zeros((9, 9, 3), np.uint8), probabilities=True)


def test_a_run_is_its_best_checkpoint_and_old_ones_are_read(models, trained, tmp_path):
    for task in TASKS:
        paths = trained[task]
        path = files(paths["images"])[0]
        same(lk_downstream.load(paths["run"]).predict(path), models[task].predict(path))  # of one step
        content = torch.load(paths["run"] / "checkpoints/last.ckpt", weights_only=True)
        assert content.pop("preparation")
        old = tmp_path / task / "checkpoints/last.ckpt"
        old.parent.mkdir(parents=True)
        torch.save(content, old)
        (tmp_path / task / "config.yaml").write_bytes((paths["run"] / "config.yaml").read_bytes())
        same(lk_downstream.load(old).predict(path), models[task].predict(path))  # by the settings of its config


def test_results_are_drawn_and_written(models, trained, tmp_path):
    kinds = {"segmentation": ClassMap, "detection": Detections, "classification": Classification}
    for task, kind in kinds.items():
        path = files(trained[task]["images"])[0]
        result = models[task].predict(path)
        assert type(result) is kind
        assert result.classes == models[task].classes
        assert result.size == result.image.shape[:2] == Image.open(path).size[::-1]
        written = json.loads(result.save(tmp_path / f"{task}.json").read_text(encoding="utf-8"))
        assert written["name"] == path.stem
        for suffix in (".png", ".tif"):
            assert Image.open(result.save(tmp_path / f"{task}{suffix}")).size
        assert result._repr_png_().startswith(b"\x89PNG")
        rows = result.to_coco(7)
        assert {row["image_id"] for row in rows} == {7}
        assert all(isinstance(row["category_id"], int) for row in rows)
        with pytest.raises(InputError, match=re.escape(".json, .png")):
            result.save(tmp_path / "x.txt")
    mask = models["segmentation"].predict(files(trained["segmentation"]["images"])[0])
    with pytest.raises(InputError, match="would not keep class indices"):
        mask.save(tmp_path / "x.jpg")
    assert Image.open(mask.save(tmp_path / "x.jpg", overlay=True)).mode == "RGB"
    covered = np.zeros(mask.size, bool)
    from pycocotools import mask as codes

    for row in mask.to_coco():
        label = mask.category_ids.index(row["category_id"])
        np.testing.assert_array_equal(codes.decode(row["segmentation"]).astype(bool), mask.mask == label)
        covered |= mask.mask == label
    assert covered.all()


def test_exif_turns_images_of_files_of_bytes_and_of_pillow_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    turned = np.rot90(pixels, -1)
    for x in (file.getvalue(), Image.open(file)):
        (given,) = read_images(x).images
        np.testing.assert_array_equal(given.image.permute(1, 2, 0), turned)


GREY = np.arange(20, dtype=np.uint8).reshape(4, 5)


@pytest.mark.parametrize(
    ("x", "channels", "layout", "shape"),
    [
        (GREY, 3, None, (3, 4, 5)),
        (GREY[None], 3, None, (3, 4, 5)),
        (GREY[..., None], 3, None, (3, 4, 5)),
        (np.zeros((3, 3, 3), np.uint8), 3, "HWC", (3, 3, 3)),
        (np.zeros((3, 9, 3), np.uint8), 3, "HWC", (3, 3, 9)),
        (np.zeros((3, 9, 3), np.uint8), 3, "CHW", (3, 9, 3)),
        (np.zeros((4, 9, 7), np.uint8), 4, None, (4, 9, 7)),
        (torch.zeros(5, 6, 3, dtype=torch.bfloat16), 3, None, (3, 5, 6)),
        (np.zeros((5, 6, 3), ">f4"), 3, None, (3, 5, 6)),
        (Image.new("L", (5, 6)), 3, None, (3, 6, 5)),
        (Image.new("RGBA", (5, 6)), 3, None, (3, 6, 5)),
        (Image.new("RGBA", (5, 6)), 4, None, (4, 6, 5)),
        (Image.new("P", (5, 6)), 3, None, (3, 6, 5)),
    ],
)
def test_shapes(x, channels, layout, shape):
    ((_, image, source),) = read_images(x, channels, layout).images
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == shape
    assert source.shape == (*shape[1:], 3)


FLOATS = np.zeros((4, 5, 3), np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 3, 3), np.uint8), "layout='CHW' or layout='HWC'"),
        (np.zeros((2, 3, 9, 3), np.uint8), "layout='CHW' or layout='HWC'"),
        (np.zeros((4, 5, 4), np.uint8), "leave out those beyond red, green and blue"),
        (np.zeros((0, 5, 3), np.uint8), "is no image"),
        (np.zeros(5, np.uint8), "is no image"),
        (FLOATS + 2, "has values from 2 to 2"),
        (FLOATS - 0.1, "divide values of 0..255 by 255"),
        (FLOATS * np.nan, "has values from nan to nan"),
        (FLOATS.astype(np.int64), "neither uint8 nor floating point"),
        (FLOATS.astype(np.uint16), "neither uint8 nor floating point"),
        (FLOATS.astype(bool), "neither uint8 nor floating point"),
        (FLOATS.astype(object), "holds no numbers"),
        (Image.new("I;16", (4, 4)), "more than 8 bits"),
        ("https://example.org/a.jpg", "is not fetched: download it"),
        ("nowhere.png", "there is no image or folder nowhere.png"),
        (b"no image", "is not an image"),
        (7, "int is nothing to predict on"),
        ({"image": GREY}, "dict is nothing to predict on"),
        ([GREY, None], "NoneType is nothing to predict on"),
    ],
)
def test_what_is_no_image_or_two_is_refused(x, message):
    with pytest.raises(InputError, match=re.escape(message)):
        list(read_images(x).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu7"}, "device 'tpu7' is not here"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not here"),
        ({"batch_pixels": 0}, "batch_pixels is 0"),
    ],
)
def test_options_of_load(trained, options, message):
    with pytest.raises(InputError, match=message):
        lk_downstream.load(trained["classification"]["run"], **options)


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("segmentation", {"palette": [[1, 2, 3]]}, "has a palette that is no list of 19 colours"),
        ("segmentation", {"label_values": [0] * 255}, "has label_values"),
        ("segmentation", {"palette": [["a", 2, 3]] * 19}, "has a palette"),
        ("detection", {"scale": [0, 9]}, "has a scale"),
        ("detection", {"scale": [1e9, 9]}, "has a scale"),
        ("detection", {"category_ids": 3}, "has category_ids"),
        ("classification", {"size": 10**9}, "has a size"),
        ("classification", {"crop": "1"}, "has a crop"),
    ],
)
def test_settings_of_a_file_are_data_that_must_fit(task, settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        PREPARATIONS[task]([f"class {number}" for number in range(19)], settings)


def test_a_checkpoint_with_other_settings_is_named(trained, tmp_path):
    content = torch.load(trained["classification"]["run"] / "checkpoints/last.ckpt", weights_only=True)
    content["preparation"]["crop"] = 7
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'x.ckpt'} has a crop")):
        lk_downstream.load(tmp_path / "x.ckpt")
