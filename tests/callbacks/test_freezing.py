"""Frozen backbones: what is frozen, for how long, and that a run goes on from anywhere."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from processes import in_two_processes
from torch import nn

from lk_downstream import create_backbone, create_classifier
from lk_downstream.callbacks import FreezeBackbone
from lk_downstream.data import Cityscapes, SegmentationData, Synthetic
from lk_downstream.detectors import FCOS
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Whole
from lk_downstream.optim import pretrained_names
from lk_downstream.tasks import Classification, Detection, Segmentation

CLASSES = tuple("abc")


def made(kind, backbone):
    if kind == "classification":
        return Classification(create_classifier(backbone, num_classes=3), CLASSES)
    if kind == "detection":
        return Detection(create_backbone(backbone), FCOS, CLASSES)
    return Segmentation(create_backbone(backbone), CLASSES, head=partial(UPerHead, channels=8), auxiliary_head=None)


@pytest.mark.parametrize("kind", ["classification", "detection", "segmentation"])
@pytest.mark.parametrize(
    ("backbone", "first", "later"),
    [
        ("test_convnext", ["stem.", "stages.0.", "stages.1."], ["stages.2.", "stages.3."]),
        (
            "test_slak",
            ["downsample_layers.0.", "stages.0.", "downsample_layers.1.", "stages.1."],
            ["downsample_layers.2.", "stages.2.", "downsample_layers.3.", "stages.3."],
        ),
        (
            "test_replknet",
            ["stem.", "stages.0.", "transitions.0.", "stages.1.", "transitions.1."],
            ["stages.2.", "transitions.2.", "stages.3."],
        ),
        ("resnet10t", ["conv1.", "bn1.", "layer1.", "layer2."], ["layer3.", "layer4."]),
    ],
)
def test_names(kind, backbone, first, later):
    task = made(kind, backbone)
    part, whole = pretrained_names(task, 2), pretrained_names(task)
    assert all(name.removeprefix("backbone.body.").startswith(tuple(first)) for name in part)
    assert all(any(name.startswith(f"backbone.body.{place}") for name in part) for place in first)
    assert all(any(name.startswith(f"backbone.body.{place}") for name in whole) for place in (*first, *later))
    left = [name for name, _ in task.named_parameters() if name.startswith("backbone.") and name not in whole]
    last = {"resnet10t": "fc"}.get(backbone, "head")
    assert all(name.startswith((f"backbone.body.{last}", "backbone.norm")) for name in left)
    assert bool(left) == (kind == "classification" or backbone in ("test_convnext", "test_slak"))


def run(folder, freeze, steps=4, ckpt_path=None, devices=1, **options):
    L.seed_everything(0)
    data = SegmentationData(
        partial(Cityscapes, root=folder / "cityscapes"), batch_size=4, crop_size=32, scale=(64, 48), workers=0,
        synthetic=Synthetic(train=8, val=2, size=(48, 64)),
    )  # fmt: skip
    task = Segmentation(
        create_backbone("test_replknet", drop_path_rate=0.5), data.classes, head=partial(UPerHead, channels=8),
        auxiliary_head=None, inference=Whole(scale=None),
        optimizer=partial(torch.optim.AdamW, lr=1e-2, weight_decay=1.0),
    )  # fmt: skip
    kept = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=steps, logger=False,
        default_root_dir=folder, callbacks=[*freeze, *options.pop("callbacks", [])] + ([kept] if devices == 1 else []),
        enable_checkpointing=devices == 1, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=1, limit_val_batches=1, val_check_interval=2, **options,
    )  # fmt: skip
    task.configure_callbacks = lambda: []
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    return task, trainer


class Watch(L.Callback):
    """Notes at each step whether frozen weights and statistics have moved, and who is in training mode."""

    def __init__(self):
        self.before, self.moved, self.training = None, [], []

    def on_train_start(self, trainer, task):
        self.before = {name: tensor.clone() for name, tensor in task.state_dict().items()}

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        after = task.state_dict()
        self.moved.append({name for name, tensor in self.before.items() if not torch.equal(tensor, after[name])})
        self.training.append({name for name, module in task.named_modules() if module.training})


@pytest.mark.parametrize("until", [2, None])
def test_nothing_moves_until_it_is_thawed(tmp_path, until):
    watch = Watch()
    task, trainer = run(tmp_path, [FreezeBackbone(2, until), watch], accumulate_grad_batches=1)
    frozen = [f"backbone.body.{name}" for name in ("stem", "stages.0", "transitions.0", "stages.1", "transitions.1")]
    for moved, training in list(zip(watch.moved, watch.training))[: until or 4]:
        assert not [name for name in moved if name.startswith(tuple(frozen))]  # batch statistics are among them
        assert not training.intersection(frozen)
        assert any(name.startswith("backbone.body.stages.2") for name in moved)
        assert "backbone.body.stages.2" in training
    inside = task.backbone.body.stages[0]
    assert any(isinstance(module, nn.BatchNorm2d) for module in inside.modules())
    state = trainer.optimizers[0].state
    steps = {state[parameter]["step"].item() for parameter in inside.parameters() if parameter in state}
    if until:
        assert any(name.startswith("backbone.body.stem") for name in watch.moved[-1])
        assert "backbone.body.stages.0" in watch.training[-1]
        assert steps == {4 - until}
    else:
        assert steps == set()
        listed = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)
        assert listed == sum(parameter.requires_grad for parameter in task.parameters()) < len(list(task.parameters()))


@pytest.mark.parametrize("step", [1, 3])  # while it is frozen, and after
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, step):
    torch.use_deterministic_algorithms(True)  # one way to compute the large kernels
    try:
        whole = run(tmp_path, [FreezeBackbone(2, 2)])[0].state_dict()
        again = run(tmp_path, [FreezeBackbone(2, 2)], ckpt_path=tmp_path / f"step={step}.ckpt")[0].state_dict()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def share(rank, folder):
    task, _ = run(folder, [FreezeBackbone(None, 1)], steps=3, devices=2)
    torch.save(task.state_dict(), folder / f"{rank}.pt")


def test_two_processes_have_the_same_weights_before_and_after(tmp_path):
    run(tmp_path, [], steps=1)  # writes the data
    in_two_processes(share, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one if "running" not in name)


@pytest.mark.parametrize("options", [{"stages": 0}, {"until_step": 0}])
def test_what_is_wrong_is_said(options):
    with pytest.raises(InputError, match="it must be at least 1, or left out"):
        FreezeBackbone(**options)
