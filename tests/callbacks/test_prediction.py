"""Prediction on files: what is written, where, with which values; and what Cityscapes' own scorer makes of it."""

import copy
import json
import os
import re
from functools import partial
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.callbacks import SegmentationFiles
from lk_downstream.cli import main
from lk_downstream.data import ADE20K, SegmentationData
from lk_downstream.data.classes import ADE20K_PALETTE, CITYSCAPES_LABEL_IDS

DEMO = str(Path(__file__).parents[2] / "configs" / "demo_segmentation.yaml")
SMALL = [
    *("--config", DEMO),
    *("--data.synthetic", "{train: 16, val: 5, size: [64, 80]}"),
    *("--data.batch_size", "4", "--data.crop_size", "64", "--data.scale", "[80, 64]", "--data.workers", "0"),
    *("--trainer.max_steps", "12", "--trainer.val_check_interval", "12"),
]
RUN = Path("runs/demo_segmentation")
TRAINED = ["--config", str(RUN / "run_0/config.yaml"), "--ckpt_path", str(RUN / "run_0/checkpoints/last.ckpt")]
IMAGES = "data/demo_cityscapes/leftImg8bit/val"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one finished small run, which is the working directory."""
    path = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(path)
    try:
        main("fit", SMALL)
        yield path
    finally:
        os.chdir(before)


def predict(*args):
    cli = main("predict", [*TRAINED, "--data.predict", IMAGES, *args])
    return Path(cli.trainer.log_dir), cli


def official_score(labels, monkeypatch):
    """Mean IoU of the files in a folder by the benchmark's scorer, which finds them by their names."""
    args = copy.copy(official.args)
    vars(args).update(evalInstLevelScore=False, JSONOutput=False, quiet=True, predictionPath=str(labels))
    monkeypatch.setattr(official, "args", args)
    truth = sorted(str(path) for path in Path("data/demo_cityscapes/gtFine/val").rglob("*_gtFine_labelIds.png"))
    found = [official.getPrediction(args, path) for path in truth]
    assert len(found) == 5
    return official.evaluateImgLists(found, truth, args)["averageScoreClasses"]


RULES = {
    "whole": (),
    "multi-scale": (
        *("--model.inference", "MultiScale", "--model.inference.ratios", "[0.75, 1.25]"),
        *("--model.inference.rule", "Slide", "--model.inference.rule.crop", "48"),
        *("--model.inference.rule.scale", "[160, 64]"),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_official_scorer_gives_our_metric_on_the_files(folder, rule, monkeypatch, capsys):
    cli = main("validate", [*TRAINED, *RULES[rule]])
    metrics = json.loads((Path(cli.trainer.log_dir) / "metrics.json").read_text(encoding="utf-8"))["last"]["summary"]
    assert 0.1 < metrics["mIoU"] < 0.95
    run, cli = predict(*RULES[rule])
    assert type(cli.model.inference).__name__ == ("MultiScale" if RULES[rule] else "Whole")
    assert official_score(run / "labels", monkeypatch) == pytest.approx(metrics["mIoU"], abs=1e-9)


def test_files_of_a_run(folder, capsys):
    run, cli = predict()
    printed = capsys.readouterr().out
    assert re.search(r"^5 images predicted$", printed, re.MULTILINE)
    assert run.parent == RUN  # beside the run that it is of
    for kind in ("labels", "overlays"):
        assert str(run / kind) in printed
        assert sorted(p.relative_to(run / kind).as_posix() for p in (run / kind).rglob("*.*")) == sorted(
            p.relative_to(IMAGES).as_posix() for p in Path(IMAGES).rglob("*.png")
        )
    values = set()
    for path in (run / "labels").rglob("*.png"):
        image = Image.open(path)
        assert (image.mode, image.size) == ("L", (80, 64))
        values |= set(np.unique(image))
    assert len(values) > 2
    assert values <= set(CITYSCAPES_LABEL_IDS)
    assert cli.trainer.predict_loop.predictions == []  # nothing is gathered in memory


def test_one_image_without_overlay(folder, capsys):
    image = sorted(Path(IMAGES).rglob("*.png"))[0]
    callback = "{class_path: SegmentationFiles, init_args: {overlays: false}}"
    run, _ = predict("--data.predict", str(image), "--trainer.callbacks", f"[{callback}]")
    assert [path.name for path in run.rglob("*.png")] == [image.name]
    assert "overlays" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "prediction needs a trained model: give --ckpt_path FILE or --model.weights FILE"),
        (TRAINED[2:], "prediction needs images: set data.predict to an image or a folder"),
        ([*TRAINED[2:], "--data.predict", "nowhere"], "there is no image or folder nowhere"),
    ],
)
def test_mistakes(folder, args, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        main("predict", [*TRAINED[:2], *args])


class Constant(L.LightningModule):
    """Predicts class 4 on the left and class 149 on the right of every image."""

    def predict_step(self, batch, batch_idx):
        prediction = torch.full((len(batch["image"]), *batch["image"].shape[-2:]), 4, dtype=torch.uint8)
        prediction[..., prediction.shape[-1] // 2 :] = 149
        return prediction


def test_values_of_ade20k_and_colours(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.jpg", "b.png"):  # two of which have one name
        Image.fromarray(np.full((10, 12, 3), 100, np.uint8)).save(tmp_path / "images" / name)
    data = SegmentationData(
        dataset=partial(ADE20K, root="nowhere"), predict=str(tmp_path / "images"), workers=0, val_batch_size=2
    )
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=tmp_path / "run", callbacks=[SegmentationFiles()], **options
    )
    trainer.predict(Constant(), data)
    written = sorted(path.name for path in (tmp_path / "run" / "labels").iterdir())
    assert written == ["a.png", "b.jpg.png", "b.png.png"]
    labels = np.asarray(Image.open(tmp_path / "run" / "labels" / "a.png"))
    assert labels.tolist() == [[5] * 6 + [150] * 6] * 10
    overlay = np.asarray(Image.open(tmp_path / "run" / "overlays" / "a.png"))
    expected = 0.35 * 100 + 0.65 * np.asarray([ADE20K_PALETTE[4], ADE20K_PALETTE[149]])
    assert np.abs(overlay[3, [2, 9]] - expected).max() <= 1
