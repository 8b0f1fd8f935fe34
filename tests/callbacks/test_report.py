"""What a run says when it starts and ends."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lk_downstream.callbacks import RunReport
from lk_downstream.ops import LargeKernelConv2d, notice
from lk_downstream.reports.tables import metrics_of_kinds


@pytest.mark.parametrize(("kind", "lines"), [(nn.Conv2d, 1), (LargeKernelConv2d, 2)])
def test_large_kernels_are_told_of_once(kind, lines, capsys):
    task = nn.ModuleDict({"backbone": nn.Sequential(*(kind(4, 4, 7, padding=3, groups=4) for _ in range(2)))})
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, strategy=strategy, world_size=1, log_dir="runs/a")
    trainer.checkpoint_callback = None
    RunReport().on_train_start(trainer, task)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert "backbone 0.0004 M" in printed[0]
    assert printed[1:] == [notice("cpu")] * (lines - 1)


def test_metrics_of_several_kinds_are_a_table():
    summary = {"bbox_AP": 0.5, "bbox_AR1": 0.25, "bbox_APl": math.nan, "segm_AP": 0.75}
    table = metrics_of_kinds(summary)
    assert table.pop("") == ["AP", "AR1"]
    assert table["bbox"] == [0.5, 0.25]
    assert table["segm"][0] == 0.75
    assert math.isnan(table["segm"][1])
    assert metrics_of_kinds({"mIoU": 0.5, "aAcc": 0.7}) == {}


@pytest.mark.parametrize(("stage", "best"), [("fit", 0.9), ("validate", 0.2)])
def test_an_evaluation_reports_its_own_metrics_and_not_the_best_of_the_training(stage, best):
    trainer = SimpleNamespace(
        log_dir=None, sanity_checking=False, global_step=7, is_global_zero=True, checkpoint_callback=None
    )
    task = SimpleNamespace(monitor="val/mIoU", results={"summary": {"mIoU": 0.2}, "classes": {}})
    report = RunReport()
    report.setup(trainer, task, stage)
    report.load_state_dict({"best": {"step": 5, "summary": {"mIoU": 0.9}, "classes": {}}})
    report.on_validation_end(trainer, task)
    assert report.best["summary"]["mIoU"] == best
    assert report.last["summary"]["mIoU"] == 0.2
