import pytest
import timm
import torch
from timm.models import group_parameters

import lk_downstream
from lk_downstream import InputError


@pytest.mark.parametrize(("size", "millions"), [("small", 22), ("base", 87), ("large", 306)])
def test_published_sizes(size, millions):
    with torch.device("meta"):
        model = timm.create_model(f"convnext_isotropic_{size}")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions
    assert (model.blocks[0].gamma is not None) == (size == "large")


@pytest.fixture
def model():
    return timm.create_model("convnext_isotropic_small", depth=3, dim=16, num_classes=5, ls_init_value=0.5).eval()


def test_authors_names_load(model):
    def authors(key):
        for new, old in (("conv_dw", "dwconv"), ("mlp.fc", "pwconv"), ("head.norm", "norm"), ("head.fc", "head")):
            key = key.replace(new, old)
        return key

    state = {authors(key): torch.rand(value.shape) for key, value in model.state_dict().items()}
    assert {"stem.weight", "blocks.2.pwconv2.bias", "norm.bias", "head.weight"} <= state.keys()
    report = lk_downstream.load_weights(model, {"model": state}, verbose=False)
    assert (report.missing, report.unexpected) == ([], [])
    torch.testing.assert_close(model.blocks[2].mlp.fc2.bias, state["blocks.2.pwconv2.bias"], rtol=0, atol=0)


def test_interface_of_timm(model):
    x = torch.randn(2, 3, 50, 64)
    assert model(x).shape == (2, 5)
    final, maps = model.forward_intermediates(x, indices=[0, 2])
    assert [tuple(item.shape) for item in maps] == [(2, 16, 3, 4)] * 2
    torch.testing.assert_close(final, model.forward_features(x), rtol=0, atol=0)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["stem.weight"] == 0
    assert [groups[f"blocks.{i}.norm.bias"] for i in range(3)] == [1, 2, 3]
    assert groups["head.fc.weight"] == 4
    before = model(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), before)
    model.reset_classifier(0)
    assert model(x).shape == (2, 16)


def test_it_has_no_pyramid():
    with pytest.raises(InputError, match=r"no maps at stride 4, 8, 32 \(it has 16\)"):
        lk_downstream.create_backbone("convnext_isotropic_small", depth=2, dim=16)
