"""What a run says when it starts."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lk_downstream.callbacks import RunReport
from lk_downstream.ops import LargeKernelConv2d, notice


@pytest.mark.parametrize(("kind", "lines"), [(nn.Conv2d, 1), (LargeKernelConv2d, 2)])
def test_large_kernels_are_told_of_once(kind, lines, capsys):
    task = nn.ModuleDict({"backbone": nn.Sequential(*(kind(4, 4, 7, padding=3, groups=4) for _ in range(2)))})
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, strategy=strategy, world_size=1, log_dir="runs/a")
    RunReport().on_train_start(trainer, task)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert "backbone 0.0004 M" in printed[0]
    assert printed[1:] == [notice("cpu")] * (lines - 1)
