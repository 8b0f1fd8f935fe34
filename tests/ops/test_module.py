"""LargeKernelConv2d in the place of nn.Conv2d, and accelerate on models of others."""

import copy

import pytest
import timm
import torch
from torch import nn

from lk_downstream.errors import InputError
from lk_downstream.ops import LargeKernelConv2d, accelerate, supports

DEPTHWISE = {"groups": 6, "padding": 3}


def twins(*args, **kwargs):
    """The same convolution as nn.Conv2d and as LargeKernelConv2d."""
    torch.manual_seed(0)
    plain = nn.Conv2d(*args, **kwargs).double()
    ours = LargeKernelConv2d(*args, **kwargs).double()
    ours.load_state_dict(plain.state_dict(), strict=True)
    return plain, ours


@pytest.mark.parametrize(
    ("kwargs", "fast"),
    [
        (DEPTHWISE, True),
        ({**DEPTHWISE, "bias": False}, True),
        ({**DEPTHWISE, "padding": "same"}, True),
        ({**DEPTHWISE, "kernel_size": (5, 9), "padding": (2, 4)}, True),
        ({**DEPTHWISE, "kernel_size": 8}, False),
        ({**DEPTHWISE, "kernel_size": 8, "padding": "same"}, False),
        ({**DEPTHWISE, "stride": 2}, False),
        ({**DEPTHWISE, "dilation": 2}, False),
        ({**DEPTHWISE, "padding": 0}, False),
        ({**DEPTHWISE, "padding": "valid"}, False),
        ({**DEPTHWISE, "padding_mode": "reflect"}, False),
        ({**DEPTHWISE, "out_channels": 12}, False),
        ({**DEPTHWISE, "groups": 2}, False),
        ({**DEPTHWISE, "groups": 1}, False),
    ],
)
def test_same_result_as_the_plain_layer(kwargs, fast):
    plain, ours = twins(**{"in_channels": 6, "out_channels": 6, "kernel_size": 7, **kwargs})
    assert supports(plain) is fast
    x = torch.randn(2, 6, 15, 17, dtype=torch.float64)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours(x[0]), plain(x[0]))


def test_copies_states_and_the_backend_of_a_layer():
    plain, ours = twins(6, 6, 7, **DEPTHWISE)
    ours.backend = "fft"
    copied = copy.deepcopy(ours)
    assert copied.backend == "fft"
    assert list(copied.state_dict()) == list(plain.state_dict())
    ours.backend = "triton"
    x = torch.randn(1, 6, 9, 9)
    with pytest.raises(InputError, match="cannot be used"):
        ours(x.double())


@pytest.mark.parametrize("name", ["test_convnext", "convnextv2_atto", "poolformerv2_s12", "convformer_s18"])
def test_accelerate_models_of_timm(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    names, parameters = list(model.state_dict()), list(model.parameters())
    with torch.no_grad():
        expected = model(x)
        count = accelerate(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels and supports(m)]
    assert count == sum(m.weight[0].numel() >= 25 for m in layers)
    assert (count > 0) is (name != "poolformerv2_s12")
    assert accelerate(model) == count
    assert names == list(model.state_dict())
    assert all(a is b for a, b in zip(parameters, model.parameters()))


def test_accelerate_sets_the_backend():
    model = nn.Sequential(nn.Conv2d(6, 6, 7, **DEPTHWISE), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 7))
    assert accelerate(model, "channels_last") == 1
    assert model[0].backend == "channels_last"
    assert type(model[1]) is nn.Conv2d
    with pytest.raises(InputError, match="did you mean 'fft'"):
        accelerate(model, "ftt")


def test_symbolic_tracing_gives_a_plain_convolution():
    _, ours = twins(6, 6, 7, **DEPTHWISE)
    traced = torch.fx.symbolic_trace(nn.Sequential(ours))
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(traced(x), ours(x))


def test_compile_in_one_graph():
    torch.compiler.reset()
    plain, ours = twins(6, 6, 7, **DEPTHWISE)
    x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(ours, fullgraph=True, backend="aot_eager")(x), plain(x))


def test_shapes_without_memory():
    layer = LargeKernelConv2d(4, 4, 31, padding=15, groups=4, device="meta")
    assert layer(torch.empty(2, 4, 9, 7, device="meta")).shape == (2, 4, 9, 7)
