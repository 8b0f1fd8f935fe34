"""The steps from ResNet to ConvNeXt: published multiply-adds, equality at both ends, a backbone at each step."""

import pytest
import timm
import torch
from timm.models import ConvNeXt, ResNet
from timm.models.resnet import Bottleneck
from torch import nn

import lk_downstream
from lk_downstream import create_backbone
from lk_downstream.analysis.costs import build, costs, total
from lk_downstream.analysis.steps import steps_table
from lk_downstream.backbones.modern_resnet import SIZES, STEPS, ModernResNet
from lk_downstream.ops import LargeKernelConv2d

NAMES = [step.name for step in STEPS]
SHALLOW = (1, 2, 1, 1)
REGIMES = {"modern_resnet50": 0, "modern_resnet200": 1}
# Steps after kernel_7 change nothing that is counted, up to the last; the deep networks take a second each.
COUNTED = [("modern_resnet50", name) for name in NAMES]
COUNTED += [("modern_resnet200", name) for name in (*NAMES[:2], "depthwise", "inverted", "depthwise_up", NAMES[-1])]


def counted(name, **arguments):
    return total(costs(build(name, **arguments), (224, 224))).macs / 1e9


@pytest.fixture
def without_initial_weights(monkeypatch):
    """Which take most of the time on the meta device, and are not looked at."""
    monkeypatch.setattr(nn.Module, "apply", lambda model, function: model)
    for layer in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(layer, "reset_parameters", lambda layer: None)


@pytest.mark.usefixtures("without_initial_weights")
@pytest.mark.parametrize(("regime", "name"), COUNTED)
def test_published_multiply_adds(regime, name):
    step = STEPS[NAMES.index(name)]
    published = step.macs[REGIMES[regime]]
    if (regime, name) == ("modern_resnet50", "layer_norm"):
        assert "misprint" in step.note
        published = STEPS[NAMES.index("fewer_norms")].macs[0]
    assert counted(f"{regime}_{name}") == pytest.approx(published, rel=0.01)


@pytest.mark.usefixtures("without_initial_weights")
def test_planted_another_first_block_is_seen():
    """A projection where there is none, a width inside of its own: what would be off by more than 1 percent."""
    assert counted("modern_resnet50_inverted", block="bottleneck") != pytest.approx(4.64, rel=0.01)
    assert counted("modern_resnet50_kernel_7", kernel=9) != pytest.approx(4.15, rel=0.01)
    assert counted("modern_resnet200_stage_ratio", width=80) != pytest.approx(14.52, rel=0.01)


def test_each_step_is_the_one_before_with_its_changes():
    for start in REGIMES:
        before = {}
        for step in STEPS:
            now = SIZES[f"{start}_{step.name}"]
            changed = {key for key in now if now[key] != before.get(key)}
            assert changed == step.changes.keys() | (step.large if start.endswith("200") else step.small).keys()
            before = now
    assert SIZES["modern_resnet50_gelu"]["kernel"] == 7


def test_the_first_step_is_resnet(randomized):
    theirs = randomized(ResNet(Bottleneck, list(SHALLOW)))
    ours = timm.create_model("modern_resnet50_resnet", depths=SHALLOW).eval()
    keys = {"conv1": "downsample_layers.0.0", "bn1": "downsample_layers.0.1", "fc": "head"}
    state = {}
    for key, value in theirs.state_dict().items():
        words = key.split(".")
        if words[0] in keys:
            key = ".".join([keys[words[0]], *words[1:]])
        else:
            rest = ".".join(words[2:]).replace("bn", "norm").replace("downsample", "shortcut")
            key = f"stages.{int(words[0][5:]) - 1}.{words[1]}.{rest}"
        state[key] = value
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 75, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-4 * theirs(x).std().item())


def convnext_keys(state):
    """Tensors of timm's ConvNeXt under the names of the last step; linear layers as 1 x 1 convolutions."""
    names = {"conv_dw": "conv1", "norm": "norm1", "mlp.fc1": "conv2", "mlp.fc2": "conv3"}
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        words = layer.split(".")
        if words[0] == "stem":
            layer = f"downsample_layers.0.{words[1]}"
        elif words[0] == "head":
            layer = {"norm": "norm", "fc": "head"}[words[1]]
        elif words[2] == "downsample":
            layer = f"downsample_layers.{words[1]}.{words[3]}"
        else:
            layer = ".".join([*words[:2], words[3], *([names[".".join(words[4:])]] if words[4:] else [])])
        renamed[f"{layer}.{kind}"] = value[:, :, None, None] if ".mlp." in key and kind == "weight" else value
    return renamed


def test_the_last_step_is_convnext_weight_for_weight(randomized):
    theirs = randomized(ConvNeXt(depths=SHALLOW, dims=(8, 16, 32, 64), ls_init_value=1.0))
    last = SIZES[f"modern_resnet50_{NAMES[-1]}"]
    ours = ModernResNet(**{**last, "depths": SHALLOW, "width": 8}).eval()
    ours.load_state_dict(convnext_keys(theirs.state_dict()))
    x = torch.randn(2, 3, 96, 70)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-4 * theirs(x).std().item())
        maps = zip(ours.forward_intermediates(x)[1], theirs.forward_intermediates(x)[1])
        for own, other in maps:
            torch.testing.assert_close(own, other, rtol=0, atol=1e-4 * other.std().item())
    for start, name in (("modern_resnet50", "convnext_tiny"), ("modern_resnet200", "convnext_base")):
        with torch.device("meta"):
            theirs, ours = timm.create_model(name), timm.create_model(f"{start}_{NAMES[-1]}")
        expected = {key: value.shape for key, value in convnext_keys(theirs.state_dict()).items()}
        assert {key: value.shape for key, value in ours.state_dict().items()} == expected


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_a_backbone(name):
    backbone = create_backbone(f"modern_resnet50_{name}", depths=(1, 1, 1, 1), width=8, drop_path_rate=0.1)
    wider = 4 if NAMES.index(name) < NAMES.index("inverted") else 1
    assert backbone.channels == tuple(wider * 8 * 2**stage for stage in range(4))
    assert backbone.strides == (4, 8, 16, 32)
    assert hasattr(backbone, "norm0") == (NAMES.index(name) >= NAMES.index("fewer_norms"))
    maps = backbone(torch.randn(2, 3, 64, 96))
    sizes = [(2, channels, 64 // s, 96 // s) for channels, s in zip(backbone.channels, backbone.strides)]
    assert [tuple(item.shape) for item in maps] == sizes
    sum(item.square().mean() for item in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    kernels = [m for m in backbone.modules() if isinstance(m, LargeKernelConv2d)]
    assert bool(kernels) == (NAMES.index(name) >= NAMES.index("depthwise"))
    acts = sum(isinstance(module, (nn.ReLU, nn.GELU)) for module in backbone.body.stages.modules())
    norms = sum(
        isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) and "shortcut" not in path
        for path, module in backbone.body.stages.named_modules()
    )
    assert acts == 4 * (1 if NAMES.index(name) >= NAMES.index("fewer_activations") else 3)
    assert norms == 4 * (1 if NAMES.index(name) >= NAMES.index("fewer_norms") else 3)


@pytest.mark.usefixtures("without_initial_weights")
def test_the_table_of_the_steps():
    table = steps_table(STEPS[3:4])
    assert [next(iter(column.cells)) for column in table.columns] == [
        "modern_resnet.._depthwise", "15.72 M", "2.35 G", "2.35", "78.28", "42.59 M", "7.23 G", "7.23", "80.54", "",
    ]  # fmt: skip


def test_they_are_models_of_timm():
    model = timm.create_model("test_modern_resnet", num_classes=5)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    model.reset_classifier(3)
    assert timm.create_model("test_modern_resnet", features_only=True)(torch.zeros(1, 3, 64, 64))[-1].shape[1] == 192
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 192, 2, 2)
    model.set_grad_checkpointing()
    model.train()(torch.zeros(2, 3, 64, 64)).sum().backward()
    with pytest.raises(lk_downstream.InputError, match="no dilated form"):
        timm.create_model("test_modern_resnet", output_stride=16)
    with pytest.raises(ValueError, match="kernel is odd"):
        timm.create_model("test_modern_resnet", kernel=4)
