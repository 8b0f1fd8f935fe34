"""The segmentation task by itself."""

from functools import partial, partialmethod

import lightning as L
import pytest
import torch
from torch import nn

from lk_downstream import create_backbone
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Whole
from lk_downstream.optim import ParameterGroups
from lk_downstream.tasks import Segmentation, load_task


def task(**options):
    options = {"head": partial(UPerHead, channels=8), "auxiliary_head": None, "inference": Whole(scale=None), **options}
    return Segmentation(create_backbone("test_convnext"), ("a", "b", "c"), **options)


def test_images_are_normalised_by_the_weights_own_statistics_and_padding_is_zero():
    model = task()
    images = torch.randint(0, 256, (2, 3, 8, 10)).to(torch.uint8)
    inputs = model.normalize(images, torch.tensor([[8, 10], [5, 7]]))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (model.backbone.mean, model.backbone.std))
    torch.testing.assert_close(inputs[0], (images[0] / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert not inputs[1, :, 5:].any()
    assert not inputs[1, :, :, 7:].any()
    assert inputs[1, :, :5, :7].all(0).any()
    assert inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["test_convnext", "test_replknet", "test_slak", "resnet18"])
def test_every_parameter_is_trained(name):
    model = Segmentation(create_backbone(name), ("a", "b", "c"), head=partial(UPerHead, channels=8))
    model.log = lambda *args, **options: None
    images = torch.randint(0, 256, (2, 3, 64, 64)).to(torch.uint8)
    batch = {"image": images, "mask": images[:, 0] % 3, "size": torch.full((2, 2), 64), "name": ["a", "b"]}
    model.training_step(batch, 0).backward()
    assert [key for key, tensor in model.named_parameters() if tensor.grad is None] == []  # or DDP would refuse


def test_a_compiled_backbone_trains_as_the_plain_one_and_keeps_its_names(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))  # no C++ compiler
    images = torch.randint(0, 256, (2, 3, 64, 64)).to(torch.uint8)
    batch = {"image": images, "mask": images[:, 0] % 3, "size": torch.full((2, 2), 64), "name": ["a", "b"]}
    losses, keys = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = task(compile=compiled)
        model.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        model.log = lambda *args, **options: None
        model.setup("fit")
        loss = model.training_step(batch, 0)
        loss.backward()
        losses.append(loss.item())
        keys.append(list(model.state_dict()))
    assert model.backbone._compiled_call_impl is not None
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert keys[0] == keys[1]


def test_statistics_are_no_part_of_a_checkpoint():
    assert not {"mean", "std"} & set(task().state_dict())


def test_a_prediction_has_the_images_own_size():
    prediction = task(inference=Whole(scale=(64, 48))).eval().predict(torch.zeros(2, 3, 70, 90, dtype=torch.uint8))
    assert prediction.shape == (2, 70, 90)
    assert prediction.dtype == torch.uint8


def test_the_learning_rate_of_a_group_reaches_the_optimizer():
    model = task(groups=ParameterGroups(no_decay="vectors"))
    optimizer = model.groups.optimizer(model, partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.05))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


def test_a_task_without_classes_is_refused():
    with pytest.raises(InputError, match="no classes"):
        Segmentation(create_backbone("test_convnext"), ())


@pytest.mark.parametrize("name", ["os.system", "evil.Task"])
def test_a_checkpoint_cannot_name_foreign_code(tmp_path, name):
    recipe = {"class_path": "lk_downstream.Segmentation", "init_args": {"head": {"class_path": name}}}
    torch.save({"recipe": recipe, "state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=name):
        load_task(tmp_path / "x.ckpt")


def test_a_file_without_a_recipe(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="holds no recipe"):
        load_task(tmp_path / "x.ckpt")


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (50, 3)])
def test_a_image_thinner_than_the_coarsest_stride(size):
    assert task().eval().predict(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, *size)
