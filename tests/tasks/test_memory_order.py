"""The memory order of a task's weights, by device."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lk_downstream import create_backbone
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.tasks import Segmentation
from lk_downstream.tasks.memory_order import arrange

CPU = torch.device("cpu")


@pytest.fixture
def ability(monkeypatch):
    """Sets what PyTorch says of the CPU."""
    return lambda name: monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: name)


def task():
    torch.manual_seed(0)
    heads = (lambda c, n: UPerHead(c, n, 8), lambda c, n: FCNHead(c, n, channels=8))
    return Segmentation(create_backbone("test_slak"), ("a", "b"), *heads).double().train()


def orders(model):
    """Of the weights of more than one tap: dense, depthwise."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1]
    return ({conv.weight.is_contiguous() for conv in convs if (conv.groups == 1) == dense} for dense in (True, False))


@pytest.mark.parametrize(
    ("name", "device", "training", "stays"),
    [
        ("AVX2", "cpu", True, True),
        ("AVX2", "cpu", False, False),
        ("AVX512", "cpu", True, False),
        ("AVX2", "cuda", True, False),
    ],
)
def test_dense_convolutions_stay_as_they_are_where_a_cpu_with_avx2_trains(ability, name, device, training, stays):
    ability(name)
    model = task()
    arrange(model, torch.device(device), training)
    dense, _ = orders(model)
    assert dense == {stays}


def test_a_step_is_the_same(ability):
    results = []
    for name in ("AVX512", "AVX2"):
        ability(name)
        model = task()
        for _ in range(2):  # a second setup changes nothing
            arrange(model, CPU, True)
        model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        seen = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and max(module.kernel_size) > 1:
                assert len(module._forward_pre_hooks) == (name == "AVX2")
                module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].is_contiguous()))
        torch.manual_seed(1)
        size = torch.tensor([[64, 64]] * 2)
        images = torch.arange(2 * 3 * 64 * 64).view(2, 3, 64, 64).remainder(251).to(torch.uint8)
        batch = {"image": images, "mask": (images[:, 0] > 99).to(torch.uint8), "size": size}
        model.training_step(batch, 0).backward()
        results.append([parameter.grad for parameter in model.parameters()])
        assert all(seen) == (name == "AVX2")
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_an_evaluation_after_the_training_takes_maps_as_they_are(ability):
    ability("AVX2")
    model = task().eval()
    arrange(model, CPU, True)
    arrange(model, CPU, False)
    dense, _ = orders(model)
    assert dense == {False}
    assert model.predict(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 64, 64)
