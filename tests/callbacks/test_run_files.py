"""Files of a run: complete, or not there."""

import json
import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image
from rich.console import Console

from lk_downstream.callbacks import Checkpoints
from lk_downstream.reports.files import write_image, write_json
from lk_downstream.reports.masks import segmentation_grid
from lk_downstream.reports.tables import class_table


def test_metrics_without_nan(tmp_path):
    write_json(tmp_path / "runs" / "metrics.json", {"IoU": [0.5, math.nan], "step": 3})
    assert json.loads((tmp_path / "runs" / "metrics.json").read_text(encoding="utf-8")) == {
        "IoU": [0.5, None],
        "step": 3,
    }
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["metrics.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "metrics.json", {"step": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"step": object()})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {"step": 1}


def test_a_checkpoint_takes_the_place_of_the_old_one_only_when_it_is_complete(tmp_path, monkeypatch):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(BoringModel())
    path = tmp_path / "last.ckpt"
    trainer.strategy.save_checkpoint({"step": 1}, path)

    def broken(self, data):
        raise OSError("disk full")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileOpener.write", broken, raising=False)
    with pytest.raises(OSError, match="disk full"):
        trainer.strategy.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


class Falling(BoringModel):
    """Its monitored metric is worse at every validation."""

    monitor = "val/AP"

    def on_validation_epoch_end(self):
        self.log("val/AP", -float(self.global_step))


def test_the_last_step_is_kept_even_where_it_is_not_the_best(tmp_path):
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = Checkpoints(dirpath=str(tmp_path))
    every = {"val_check_interval": 2, "limit_val_batches": 2, "num_sanity_val_steps": 0}
    L.Trainer(max_steps=6, callbacks=[checkpoints], **every, **options).fit(Falling())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_step=2.ckpt", "last.ckpt"]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert torch.load(checkpoints.best_model_path, weights_only=True)["global_step"] == 2


def test_a_grid_shows_images_truth_and_prediction(tmp_path):
    image = np.full((24, 32, 3), 200, np.uint8)
    truth = np.zeros((24, 32), np.uint8)
    truth[:, 16:] = 1
    palette, classes = [(255, 0, 0), (0, 0, 255)], ("left", "right")
    grid = segmentation_grid([("a", image, truth, np.zeros_like(truth))] * 3, palette, classes)
    write_image(tmp_path / "grid.png", grid)
    shown = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red, blue = ((shown[..., a] - shown[..., b] > 100).sum() for a, b in ((0, 2), (2, 0)))
    assert 2 < red / blue < 4  # of truth and prediction together three quarters are "left"


def test_a_class_name_is_printed_as_it_is(capsys):
    Console().print(class_table({"class": ["cat [bold]", "[/]"], "accuracy": [0.5, 0.25]}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:-1] for line in lines[1:]] == [["cat", "[bold]"], ["[/]"]]


def test_absent_classes_are_counted_not_listed():
    table = class_table({"class": ["a", "b"], "IoU": [0.5, math.nan], "Acc": [0.25, math.nan]})
    assert table.row_count == 1
    assert "1 of 2 classes" in table.caption
