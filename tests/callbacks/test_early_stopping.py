"""A run that EarlyStopping ends is a run like any other; with many of the choices at once, which its recipe keeps."""

import json
from pathlib import Path

import pytest
import torch

from lk_downstream.cli import main
from lk_downstream.tasks import load_task
from lk_downstream.tasks.losses import Dice

pytestmark = pytest.mark.usefixtures("without_plots")
CONFIG = Path(__file__).parents[2] / "configs" / "demo_segmentation.yaml"
SMALL = (
    *("--config", str(CONFIG), "--data.synthetic", "{train: 8, val: 2, size: [48, 64]}", "--data.batch_size", "4"),
    *("--data.crop_size", "32", "--data.scale", "[64, 48]", "--data.workers", "0", "--model.head.channels", "8"),
    *("--trainer.val_check_interval", "1", "--trainer.log_every_n_steps", "1"),
    *("--model.loss=SumOfLosses", "--model.loss.losses+=OHEM", "--model.loss.losses+=Dice"),
    *("--model.loss.losses.class_weight=frequency", "--model.loss.weights=[1,2]"),
    *("--model.boundary_iou=true", "--model.backbone.in_chans=1"),
    *("--data.sampling=RepeatFactor", "--data.sampling.threshold=0.5"),
    *("--trainer.callbacks+=FreezeBackbone", "--trainer.callbacks.stages=1", "--trainer.callbacks.until_step=2"),
)
STOPPING = (
    *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/mIoU", "--trainer.callbacks.mode=max"),
    *("--trainer.callbacks.patience=2", "--trainer.callbacks.min_delta=2"),  # which nothing improves by
)


def test_it_ends_with_a_validation_a_report_and_a_checkpoint_to_go_on_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Path(main("fit", [*SMALL, *STOPPING, "--trainer.max_steps", "9"]).trainer.log_dir)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["last"]
    assert found["step"] == 3
    assert 0 <= found["summary"]["mBoundaryIoU"] <= 1
    assert list(found["classes"]) == ["class", "IoU", "Acc", "F1", "Precision", "BoundaryIoU"]
    printed = capsys.readouterr().out
    assert "(best, step" in printed  # the report
    assert "class weights by the frequency in 8 training masks" in printed
    assert "frozen until step 2" in printed
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    task = load_task(last)  # from classes that are trusted
    assert isinstance(task.loss.losses[1], Dice)
    assert task.predict(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 64, 64)
    command = main("fit", [*SMALL, "--trainer.max_steps", "4", "--ckpt_path", str(last)])  # without it
    assert command.trainer.global_step == 4
