"""The bar of a run in a terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lk_downstream.callbacks import RunProgress


@pytest.mark.parametrize("width", [80, 140])
def test_steps_and_times_stay_legible_beside_many_metrics(width, monkeypatch):
    monkeypatch.setattr("lk_downstream.callbacks.progress.sys.stdout", SimpleNamespace(isatty=lambda: True))
    progress = RunProgress()
    progress.console = Console(file=io.StringIO(), width=width, force_terminal=True)
    progress._open(SimpleNamespace(is_global_zero=True), "step", 160000, 1200)
    metrics = "train/loss 5.872  val/ECE 0.3311  val/top1 0.3333  val/top5 0.75"
    progress.bar.update(progress.bar.tasks[0].id, metrics=metrics)
    progress.bar.add_task("validation", total=782, metrics="")
    plain = Console(file=io.StringIO(), width=width)
    plain.print(progress.bar.get_renderable())
    progress._close()
    shown = plain.file.getvalue()
    assert "1200/160000 0:00:00 -:--:--" in shown
    assert all(metric in shown for metric in metrics.split("  "))
