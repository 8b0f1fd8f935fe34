"""A run that EarlyStopping ends is a run like any other."""

import json
from pathlib import Path

import pytest
import torch

from lk_downstream.cli import main

pytestmark = pytest.mark.usefixtures("without_figures")
CONFIG = Path(__file__).parents[2] / "configs" / "demo_segmentation.yaml"
SMALL = (
    *("--config", str(CONFIG), "--data.synthetic", "{train: 8, val: 2, size: [48, 64]}", "--data.batch_size", "4"),
    *("--data.crop_size", "32", "--data.scale", "[64, 48]", "--data.workers", "0", "--model.head.channels", "8"),
    *("--trainer.val_check_interval", "1", "--trainer.log_every_n_steps", "1"),
)
STOPPING = (
    *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/mIoU", "--trainer.callbacks.mode=max"),
    *("--trainer.callbacks.patience=2", "--trainer.callbacks.min_delta=2"),  # which nothing improves by
)


def test_it_ends_with_a_validation_a_report_and_a_checkpoint_to_go_on_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Path(main("fit", [*SMALL, *STOPPING, "--trainer.max_steps", "9"]).trainer.log_dir)
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["last"]["step"] == 3
    printed = capsys.readouterr().out
    assert "(best, step" in printed  # the report
    last = run / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    command = main("fit", [*SMALL, "--trainer.max_steps", "4", "--ckpt_path", str(last)])  # without it
    assert command.trainer.global_step == 4
