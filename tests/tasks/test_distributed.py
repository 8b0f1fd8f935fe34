"""Figures that do not depend on the number of processes."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys
from functools import partial

import lightning as L
import torch

from lk_downstream import create_backbone
from lk_downstream.data import Cityscapes, SegmentationData, Synthetic
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Whole
from lk_downstream.tasks import Segmentation


class Keeping(Segmentation):
    def on_validation_epoch_end(self):
        self.matrix = self.metric.compute()["matrix"]
        super().on_validation_epoch_end()

    def configure_callbacks(self):
        return []


devices, folder = int(sys.argv[1]), sys.argv[2]
L.seed_everything(0)
data = SegmentationData(
    partial(Cityscapes, root=f"{folder}/cityscapes"), batch_size=4, crop_size=64, scale=(80, 64), workers=0,
    synthetic=Synthetic(train=8, val=5, size=(64, 80)),
)
head = partial(UPerHead, channels=16)
task = Keeping(create_backbone("test_convnext"), data.classes, head=head, inference=Whole(scale=None))
trainer = L.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
)
trainer.validate(task, data, verbose=False)
matrix = task.matrix
trainer.fit(task, data)  # DDP refuses the second step if a parameter was not used in the first
if trainer.is_global_zero:
    torch.save({"matrix": matrix, "weight": task.head.conv_seg.weight.detach()}, f"{folder}/{devices}.pt")
"""


def test_one_process_and_two_count_the_same_pixels(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    for devices in (1, 2):
        command = [sys.executable, str(script), str(devices), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert one["matrix"].sum() > 0
    assert torch.equal(one["matrix"], two["matrix"])  # five pictures, which two processes cannot share evenly
