"""``lk-downstream predict MODEL IMAGES``: without a config, in tiles, on videos."""

import json
import re
from fractions import Fraction

import numpy as np
import pytest
import tifffile
from PIL import Image

from lk_downstream.commands import predict as command
from lk_downstream.commands import run
from lk_downstream.data.video import VideoFile, frame_rate, read_frames
from lk_downstream.errors import InputError
from lk_downstream.inference.model import predictor
from lk_downstream.inference.results import ClassMap, Detections


class Stand:
    """Stands in for a model of a task: dark pixels are of class 0, others of class 1."""

    def __init__(self, kind):
        self.kind, self.classes, self.channels = kind, ("dark", "light"), 3

    def state_dict(self):
        return {}

    def predict_step(self, batch, index):
        import torch

        images = batch["image"]
        if self.kind == "segmentation":
            return (images[:, 0] > 100).to(torch.uint8)
        found = {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        return [found for _ in images]

    def probabilities(self, images):
        import torch

        light = images.float().mean((1, 2, 3)) / 255
        return torch.stack((1 - light, light), 1)

    def head_logits(self, images):
        import torch

        light = images[:, :1].float() - 100.5
        return torch.cat((-light, light), 1)

    class head:
        align_corners = False

    class inference:
        rule = None


@pytest.fixture
def stand(monkeypatch):
    import torch

    def load(source, device=None, trusted=()):
        return predictor(Stand(source), {}, torch.device("cpu"))

    monkeypatch.setattr("lk_downstream.loading.load", load)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    pixels = np.where(np.arange(60)[:, None, None] < np.arange(70)[None, :, None], np.uint8(40), np.uint8(200))
    pixels = np.ascontiguousarray(np.broadcast_to(pixels, (60, 70, 3)))
    Image.fromarray(pixels).save(folder / "x.png")
    Image.fromarray(255 - pixels).save(tmp_path / "images" / "y.png")
    return tmp_path / "images"


def test_a_segmentation(stand, images, tmp_path, capsys):
    assert run("predict", ["segmentation", str(images), "--output", str(tmp_path / "out")]) == 0
    assert re.search(r"^2 images predicted\nlabels +\S*labels\noverlays +\S*overlays$", capsys.readouterr().out, re.M)
    mask = np.asarray(Image.open(tmp_path / "out/labels/a/x.png"))
    np.testing.assert_array_equal(mask, np.arange(60)[:, None] >= np.arange(70)[None])
    assert run("predict", ["segmentation", str(images), "--output", str(tmp_path / "tiles"), "--tile", "32"]) == 0
    assert "overlays" not in capsys.readouterr().out
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "tiles/labels/a/x.tif"), mask)


def test_tiles_of_a_config_say_the_form_that_has_them(capsys):
    for words in (["--tile", "512"], ["--overlap=64"]):
        assert run("predict", ["--config", "demo_segmentation", "--ckpt_path", "x.ckpt", *words]) == 1
        said = capsys.readouterr().err
        assert f"lk-downstream predict CHECKPOINT IMAGES {words[0].partition('=')[0]} NUMBER" in said
        assert len(said.splitlines()) == 1


def test_large_images_are_taken_in_tiles_by_themselves(stand, images, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "LARGE", 60 * 70 - 1)
    for kind in ("segmentation", "detection", "classification"):
        assert run("predict", [kind, str(images), "--output", str(tmp_path / kind)]) == 0
    assert len(list((tmp_path / "segmentation/labels").rglob("*.tif"))) == 2
    monkeypatch.setattr(command, "LARGE", 60 * 70)
    assert run("predict", ["segmentation", str(images), "--output", str(tmp_path / "small")]) == 0
    assert len(list((tmp_path / "small/labels").rglob("*.png"))) == 2


def test_detections_and_classes(stand, images, tmp_path, capsys):
    assert run("predict", ["detection", str(images), "--output", str(tmp_path / "boxes")]) == 0
    rows = json.loads((tmp_path / "boxes/results.bbox.json").read_text(encoding="utf-8"))
    assert [row["image_id"] for row in rows] == [1, 2]
    names = json.loads((tmp_path / "boxes/images.json").read_text(encoding="utf-8"))["images"]
    assert [row["file_name"] for row in names] == ["a/x.png", "y.png"]
    assert run("predict", ["multilabel", str(images / "y.png"), "--output", str(tmp_path / "tags")]) == 0
    (row,) = json.loads((tmp_path / "tags/predictions.json").read_text(encoding="utf-8"))
    assert row["name"] == "y"
    assert sorted(row["classes"]) == ["dark", "light"]


def test_what_cannot_be_read_is_named_and_the_others_go_on(stand, images, tmp_path, capsys):
    (images / "b.png").write_bytes(b"nothing")
    assert run("predict", ["segmentation", str(images), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "2 images predicted" in said.out
    assert "1 of the images could not be read" in said.err
    for words, message in (
        (["segmentation"], "images"),
        (["segmentation", "nowhere"], "there is no image or folder nowhere"),
        (["classification", str(images / "y.png"), "--tile", "9"], "classified as a whole"),
        (["segmentation", str(images / "y.png"), "--tile", "0"], "overlap by less than a side"),
    ):
        assert run("predict", [*words, "--output", str(tmp_path / "x")]) == 1
        assert message in capsys.readouterr().err


def film(path, frames=4):
    video = VideoFile(path, Fraction(10))
    for number in range(frames):
        frame = np.zeros((49, 64, 3), np.uint8)
        frame[:, : 16 * number] = 220
        video.add(frame)
    return video.close()


def test_videos(stand, tmp_path, capsys):
    path = film(tmp_path / "film.mp4")
    frames = list(read_frames(path))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4  # even sides
    assert abs(int(frames[2][20, 10, 0]) - 220) < 8
    assert frame_rate(path) == 10
    for kind in ("segmentation", "detection", "classification"):
        assert run("predict", [kind, str(path), "--output", str(tmp_path / kind)]) == 0
        assert len(list(read_frames(tmp_path / kind / "film.mp4"))) == 4
        rows = [json.loads(row) for row in (tmp_path / kind / "film.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [row["name"] for row in rows] == [f"film_{number:06}" for number in range(4)]
        assert sorted(path.name for path in (tmp_path / kind).iterdir()) == ["film.jsonl", "film.mp4"]
    import torch

    model = predictor(Stand("segmentation"), {}, torch.device("cpu"))
    results = model.predict(path)
    assert all(type(result) is ClassMap for result in results)
    assert [result.mask.mean() for result in results] == pytest.approx([0, 0.25, 0.5, 0.75], abs=0.02)
    assert type(next(predictor(Stand("detection"), {}, torch.device("cpu")).stream(path))) is Detections


def test_videos_that_are_none(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing of the kind" * 9)
    (tmp_path / "list.avi").write_text("#EXTM3U\n#EXTINF:1\nhttp://127.0.0.1:9/x.ts\n", encoding="utf-8")
    whole = film(tmp_path / "film.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    for name in ("x.mp4", "list.avi", "cut.mp4"):
        with pytest.raises(InputError, match=rf"{name} is no \w+ or is damaged"):
            list(read_frames(tmp_path / name))
    with pytest.raises(InputError, match="there is no file"):
        list(read_frames(tmp_path / "none.mp4"))
