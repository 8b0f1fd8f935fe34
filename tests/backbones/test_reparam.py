import copy

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

import lk_downstream
from lk_downstream.backbones import reparam
from lk_downstream.backbones.blocks import ReparamLargeKernelConv
from lk_downstream.ops.fusion import BATCH_NORM


def large_kernels(model):
    return [module for module in model.modules() if isinstance(module, ReparamLargeKernelConv)]


def names(model):
    return {tuple(name for name, _ in module.named_children()) for module in large_kernels(model)}


@pytest.mark.parametrize(
    ("name", "arguments", "dense", "expected"),
    [
        ("test_replknet", {}, False, {("lkb_reparam",)}),
        ("test_replknet", {"small_kernel": 0}, False, {("lkb_reparam",)}),
        ("test_slak", {}, False, {("LoRA1_reparam", "LoRA2_reparam")}),
        ("test_slak", {}, True, {("lkb_reparam",)}),
        ("test_slak", {"decomposed": False}, False, {("lkb_reparam",)}),
        ("test_slak", {"kernel_size": (7, 7, 7, 7, 100)}, False, {("lkb_reparam",)}),
    ],
)
def test_whole_model_is_the_same_in_float64(name, arguments, dense, expected, randomized):
    model = randomized(timm.create_model(name, num_classes=5, **arguments).double())
    before = copy.deepcopy(model.state_dict())
    merged = lk_downstream.reparameterize(model, dense=dense)
    assert names(merged) == expected
    x = torch.randn(2, 3, 72, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), model(x), rtol=0, atol=1e-8 * model(x).std().item())
    assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


DEEP = [("test_replknet", {}), ("test_replknet", {"norm_intermediate_features": True}), ("test_slak", {})]


@pytest.mark.parametrize(("name", "arguments"), DEEP)
@pytest.mark.parametrize("synchronised", [False, True])
def test_deep_fusion_is_the_same_in_float64(name, arguments, synchronised, randomized):
    model = randomized(timm.create_model(name, num_classes=5, **arguments).double())
    x = torch.randn(2, 3, 70, 65, dtype=torch.float64)
    with torch.no_grad():
        expected, maps = model(x), model.forward_intermediates(x, intermediates_only=True)
        if synchronised:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
        merged = lk_downstream.reparameterize(model, deep=True)
        torch.testing.assert_close(merged(x), expected, rtol=0, atol=1e-8 * expected.std().item())
        for got, wanted in zip(merged.forward_intermediates(x, intermediates_only=True), maps):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-8 * wanted.std().item())
    kept = {key for key, part in merged.named_modules() if isinstance(part, BATCH_NORM)}
    returned = {f"stages.{stage}.norm" for stage in range(4)} if arguments else set()
    assert kept == (returned | {"norm"} if name == "test_replknet" else set())
    again = lk_downstream.reparameterize(merged, deep=True)
    torch.testing.assert_close(again.state_dict(), merged.state_dict(), rtol=0, atol=0)


def test_deep_fusion_of_other_parts(randomized):
    """A norm behind a padded convolution folds; one in front of it, one that is shared, and others stay."""
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(shared, nn.BatchNorm2d(4)),
        nn.Sequential(shared, nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 4), nn.GroupNorm(2, 4)),
    )
    model = randomized(model.double())
    merged = lk_downstream.reparameterize(model, deep=True)
    x = torch.randn(2, 3, 20, 21, dtype=torch.float64)
    torch.testing.assert_close(merged(x), model(x), rtol=0, atol=1e-10)
    assert [key for key, part in merged.named_modules() if isinstance(part, BATCH_NORM)] == ["0", "2.1", "3.1"]


@pytest.mark.parametrize("dense", [False, True])
def test_the_faster_form_is_taken_for_the_maps_of_the_example(dense, monkeypatch):
    """By a clock of its own, which counts the convolutions, or their opposite."""

    def clock(run, device):
        convolutions = len(list(run.__defaults__[0].children()))
        return convolutions if dense else -convolutions

    monkeypatch.setattr(reparam, "seconds", clock)
    example = torch.zeros(1, 3, 64, 96)
    merged = lk_downstream.reparameterize(timm.create_model("test_slak"), dense=not dense, example=example)
    assert names(merged) == {("lkb_reparam",) if dense else ("LoRA1_reparam", "LoRA2_reparam")}


def test_each_size_of_maps_is_timed_once(monkeypatch):
    seen = []
    monkeypatch.setattr(reparam, "_is_dense_faster", lambda module, shape: seen.append(tuple(shape)) or len(seen) == 3)
    merged = lk_downstream.reparameterize(timm.create_model("test_slak"), example=torch.zeros(2, 3, 64, 96))
    assert seen == [(2, 24, 16, 24), (2, 48, 8, 12), (2, 72, 4, 6), (2, 96, 2, 3)]
    forms = [len(list(module.children())) for module in large_kernels(merged)]
    assert forms == [2, 2, 1, 1, 2]  # the third stage has two blocks


def test_rectangles_cost_less_than_the_dense_kernel():
    model = timm.create_model("slak_tiny", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1))
    thin = large_kernels(lk_downstream.reparameterize(model))[0]
    dense = large_kernels(lk_downstream.reparameterize(model, dense=True))[0]
    weights = [sum(p.numel() for p in module.parameters() if p.ndim == 4) / 10 for module in (thin, dense)]
    assert weights == [2 * 51 * 5, 51 * 51]


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
def test_synchronised_batch_norms_are_merged(name, randomized):
    model = randomized(timm.create_model(name))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(lk_downstream.reparameterize(synced)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
def test_timm_finds_the_method(name):
    model = timm.create_model(name).eval()
    merged = reparameterize_model(model)
    assert names(merged) == names(lk_downstream.reparameterize(model))
    assert names(reparameterize_model(merged)) == names(merged)


@pytest.mark.parametrize(("name", "option"), [("test_replknet", "small_kernel_merged"), ("test_slak", "merged")])
def test_merged_weights_load_into_a_model_built_merged(name, option, randomized):
    merged = lk_downstream.reparameterize(randomized(timm.create_model(name)))
    again = timm.create_model(name, **{option: True}).eval()
    again.load_state_dict(merged.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), merged(x), rtol=0, atol=0)


def test_backbone_and_other_models():
    backbone = lk_downstream.create_backbone("test_slak")
    merged = lk_downstream.reparameterize(backbone)
    assert merged.channels == backbone.channels
    assert not merged.training
    plain = timm.create_model("test_convnext")
    torch.testing.assert_close(lk_downstream.reparameterize(plain).state_dict(), plain.state_dict())


def test_a_wrong_merge_is_noticed(monkeypatch):
    def broken(self, dense=False):
        self.lkb_origin.bn.bias.data += 1e-3

    monkeypatch.setattr(reparam.ReparamLargeKernelConv, "reparameterize", broken)
    with pytest.raises(RuntimeError, match=r"stages\.0\.blocks\.0\.large_kernel is off"):
        lk_downstream.reparameterize(timm.create_model("test_replknet"))
