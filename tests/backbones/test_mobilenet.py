"""MobileNet V2 with large kernels, as in the tables of the RepLKNet paper."""

import pytest
import timm
import torch
from torch import nn

from lk_downstream import InputError, create_backbone, reparameterize
from lk_downstream.backbones.blocks import ReparamLargeKernelConv

NAME = "mobilenetv2_large_kernel"


def depthwise(model):
    return [module.conv_dw for module in model.modules() if hasattr(module, "conv_dw")]


def test_three_by_three_is_timms_model(randomized):
    theirs = randomized(timm.create_model("mobilenetv2_100"))
    ours = timm.create_model(NAME, kernel=3).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        other = timm.create_model(NAME, kernel=3, shortcuts=False).eval()
        other.load_state_dict(theirs.state_dict())
        assert not torch.equal(other(x), theirs(x))  # planted: no shortcuts
    skips = [sum(getattr(module, "has_skip", False) for module in model.modules()) for model in (theirs, ours, other)]
    assert skips == [10, 10, 0]


@pytest.mark.parametrize(("stages", "number"), [("all", 17), ("last", 4)])
@pytest.mark.parametrize("small", [0, 3])
def test_which_kernels_are_large(stages, number, small):
    with torch.device("meta"):
        model = timm.create_model(NAME, kernel=13, small_kernel=small, stages=stages)
        plain = timm.create_model("mobilenetv2_100")
    large = [conv for conv in depthwise(model) if small == 0 or isinstance(conv, ReparamLargeKernelConv)]
    large = [conv if small == 0 else conv.lkb_origin.conv for conv in large]
    assert sum(conv.kernel_size == (13, 13) for conv in large) == number
    assert [conv.stride for conv in large[-4:]] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    channels = sum(conv.in_channels for conv in depthwise(plain)[-number:])
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == channels * (169 - 9 + (9 + 2 if small else 0))  # a kernel, and a second with its norm


def test_branches_are_merged(randomized):
    backbone = randomized(create_backbone(NAME, kernel=7, small_kernel=3))
    merged = reparameterize(backbone)
    assert all(isinstance(conv.lkb_reparam, nn.Conv2d) for conv in depthwise(merged))
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for own, other in zip(merged(x), backbone(x)):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-4 * other.std().item())
    assert backbone.channels == (24, 32, 96, 320)
    assert [tuple(item.shape[-2:]) for item in merged(x)] == [(24, 16), (12, 8), (6, 4), (3, 2)]


def test_it_learns_and_is_a_model_of_timm():
    model = timm.create_model(NAME, kernel=5, small_kernel=3, num_classes=2, drop_path_rate=0.1)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(timm.create_model(NAME, kernel=5, features_only=True)(torch.randn(1, 3, 64, 64))) == 5
    with pytest.raises(InputError, match="no published weights"):
        timm.create_model(NAME, pretrained=True)
    with pytest.raises(InputError, match="kernels are odd, not 4"):
        timm.create_model(NAME, kernel=4)
