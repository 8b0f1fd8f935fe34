"""Every training ends with a validation, whatever its intervals, and with one."""

from functools import partial

import lightning as L
import pytest

from lk_downstream import create_backbone
from lk_downstream.callbacks import Checkpoints
from lk_downstream.data import ADE20K, SegmentationData, Synthetic
from lk_downstream.heads import FCNHead
from lk_downstream.tasks import Segmentation

# Options of the Trainer, where three steps make an epoch -> steps of the validations.
INTERVALS = {
    "an interval that the end is between": ({"max_steps": 5, "val_check_interval": 2}, [2, 4, 5]),
    "the end is at an interval": ({"max_steps": 4, "val_check_interval": 4}, [4]),
    "an interval beyond the end": ({"max_steps": 2, "val_check_interval": 50}, [2]),
    "every second epoch, the end within one": ({"max_steps": 4, "check_val_every_n_epoch": 2}, [4]),
    "every second epoch, the end after a third": ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [6, 9]),
    "every epoch": ({"max_epochs": 2}, [3, 6]),
    "half epochs": ({"max_steps": 3, "val_check_interval": 1 / 3}, [1, 2, 3]),
    "no validation": ({"max_steps": 4, "limit_val_batches": 0}, []),
    "a try of everything": ({"fast_dev_run": True}, [1]),
    "a try of two steps": ({"fast_dev_run": 2}, [2]),
}


class Steps(L.Callback):
    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, task):
        self.steps.append(trainer.global_step)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "ade20k"


@pytest.mark.parametrize("name", INTERVALS)
def test_steps_of_the_validations(name, root, tmp_path):
    options, expected = INTERVALS[name]
    if "val_check_interval" in options and isinstance(options["val_check_interval"], int):
        options = {**options, "check_val_every_n_epoch": None}  # as the command line does
    data = SegmentationData(
        partial(ADE20K, root=str(root)),
        2,
        crop_size=32,
        scale=(64, 48),
        workers=0,
        synthetic=Synthetic(train=6, val=1, size=(40, 48)),
    )
    head = partial(FCNHead, channels=8)
    task = Segmentation(create_backbone("test_convnext"), data.classes, head, auxiliary_head=None)
    task.configure_callbacks = list
    steps, kept = Steps(), Checkpoints(dirpath=str(tmp_path))
    L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[steps, kept],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    ).fit(task, data)
    assert steps.steps == expected
    assert bool(task.results) == bool(expected)
    assert (tmp_path / "last.ckpt").exists() != ("fast_dev_run" in options)
