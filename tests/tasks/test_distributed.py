"""Metrics that do not depend on the number of processes."""

from functools import partial

import lightning as L
import torch
from processes import in_two_processes

from lk_downstream import create_backbone
from lk_downstream.data import Cityscapes, SegmentationData, Synthetic
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Whole
from lk_downstream.tasks import Segmentation


class Keeping(Segmentation):
    """Keeps its confusion matrix."""

    def on_validation_epoch_end(self):
        self.matrix = self.metric.compute()["matrix"]
        super().on_validation_epoch_end()

    def configure_callbacks(self):
        return []


def validate_and_fit(rank, devices, folder):
    L.seed_everything(0)
    data = SegmentationData(
        partial(Cityscapes, root=folder / "cityscapes"), batch_size=4, crop_size=64, scale=(80, 64), workers=0,
        synthetic=Synthetic(train=8, val=5, size=(64, 80)),
    )  # fmt: skip
    head = partial(UPerHead, channels=16)
    task = Keeping(create_backbone("test_convnext"), data.classes, head=head, inference=Whole(scale=None))
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.validate(task, data, verbose=False)
    matrix = task.matrix
    trainer.fit(task, data)  # DDP refuses the second step if a parameter was not used in the first
    if rank == 0:
        torch.save(matrix, folder / f"{devices}.pt")


def test_one_process_and_two_count_the_same_pixels(tmp_path):
    validate_and_fit(0, 1, tmp_path)
    in_two_processes(validate_and_fit, 2, tmp_path)
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert one.sum() > 0
    assert torch.equal(one, two)  # five images, which two processes cannot share evenly
