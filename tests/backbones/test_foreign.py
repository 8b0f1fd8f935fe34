"""Weights by the names of torchvision and transformers, of compiled models, of averages; options behind a #."""

import importlib.util
import re

import pytest
import timm
import torch
import torchvision

from lk_downstream import create_backbone, load_weights
from lk_downstream.backbones.foreign import to_timm
from lk_downstream.errors import InputError

TINY = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def torchvision_model(randomized):
    settings = torchvision.models.convnext.CNBlockConfig
    sizes = zip(TINY["dims"], [*TINY["dims"][1:], None], TINY["depths"])
    model = torchvision.models.ConvNeXt([settings(*size) for size in sizes], num_classes=10)
    return randomized(model)


def timm_model(name="convnext_tiny"):
    return timm.create_model(name, num_classes=10, **TINY).eval()


@pytest.mark.parametrize("wrap", ["", "model.", "module.", "_orig_mod.", "module.backbone._orig_mod."])
def test_torchvision(randomized, wrap):
    theirs = torchvision_model(randomized)
    ours = timm_model()
    report = load_weights(ours, {f"{wrap}{name}": value for name, value in theirs.state_dict().items()}, verbose=False)
    assert report.missing == report.unexpected == []
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
        stages = ours.forward_intermediates(x, intermediates_only=True)
        features, number = x, 0
        for index, part in enumerate(theirs.features):
            features = part(features)
            if index % 2:
                torch.testing.assert_close(stages[number], features, rtol=0, atol=1e-5)
                number += 1
    assert number == 4


def test_torchvisions_own_sizes_fit():
    with torch.device("meta"):
        for name in ("convnext_tiny", "convnext_base"):
            theirs = to_timm(torchvision.models.get_model(name).state_dict())
            ours = timm.create_model(name).state_dict()
            assert theirs.keys() == ours.keys()
            assert all(theirs[key].numel() == ours[key].numel() for key in ours)


# Of transformers' ConvNextForImageClassification, by timm's names of the same tensors.
TRANSFORMERS = (
    ("convnext.embeddings.patch_embeddings.weight", "stem.0.weight"),
    ("convnext.embeddings.layernorm.bias", "stem.1.bias"),
    ("convnext.encoder.stages.0.layers.0.dwconv.weight", "stages.0.blocks.0.conv_dw.weight"),
    ("convnext.encoder.stages.0.layers.0.layer_scale_parameter", "stages.0.blocks.0.gamma"),
    ("convnext.encoder.stages.2.layers.1.layernorm.weight", "stages.2.blocks.1.norm.weight"),
    ("convnext.encoder.stages.2.layers.1.pwconv1.bias", "stages.2.blocks.1.mlp.fc1.bias"),
    ("convnext.encoder.stages.2.layers.1.pwconv2.weight", "stages.2.blocks.1.mlp.fc2.weight"),
    ("convnext.encoder.stages.3.downsampling_layer.0.weight", "stages.3.downsample.0.weight"),
    ("convnext.encoder.stages.3.layers.0.grn.weight", "stages.3.blocks.0.mlp.grn.weight"),
    ("convnext.layernorm.weight", "head.norm.weight"),
    ("classifier.weight", "head.fc.weight"),
)


@pytest.mark.parametrize("owner", ["convnext.", "convnextv2.", ""])
def test_names_of_transformers(owner):
    state = {
        theirs.replace("convnext.", owner): torch.tensor(number) for number, (theirs, _) in enumerate(TRANSFORMERS)
    }
    renamed = to_timm(state)
    assert [renamed[ours].item() for _, ours in TRANSFORMERS] == list(range(len(TRANSFORMERS)))
    assert len(renamed) == len(TRANSFORMERS)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("version", ["", "V2"])
def test_transformers(randomized, version):
    import transformers

    config = getattr(transformers, f"ConvNext{version}Config")
    sizes = {"depths": list(TINY["depths"]), "hidden_sizes": list(TINY["dims"]), "num_labels": 10}
    theirs = randomized(getattr(transformers, f"ConvNext{version}ForImageClassification")(config(**sizes)))
    ours = timm_model(f"convnext{version.lower()}_tiny")
    for module in theirs.modules():  # transformers has 1e-6, or in its last norm 1e-12
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    report = load_weights(ours, theirs.state_dict(), verbose=False)
    assert report.missing == report.unexpected == []
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-5)


def test_marks_of_compiling_anywhere():
    ours = create_backbone("test_convnext", None)
    state = {name.replace("stages.", "stages._orig_mod."): value + 1 for name, value in ours.body.state_dict().items()}
    assert any("._orig_mod." in name for name in state)
    load_weights(ours, state, verbose=False)
    for name, value in ours.body.state_dict().items():
        assert torch.equal(value, state[name.replace("stages.", "stages._orig_mod.")])


def test_options_behind_a_number_sign(tmp_path):
    model = timm_model()
    plain, average = ({k: v + n for k, v in model.state_dict().items()} for n in (1, 2))
    del average["stem.1.bias"]
    path = tmp_path / "x.pth"
    torch.save({"state_dict": plain, "model_ema": average}, path)
    load_weights(model, str(path), verbose=False)
    assert torch.equal(model.state_dict()["stem.0.bias"], plain["stem.0.bias"])
    with pytest.raises(InputError, match=re.escape("stem.1.bias")):
        load_weights(model, f"{path}#key=model_ema")
    report = load_weights(model, f"{path}#key=model_ema,strict=false", verbose=False)
    assert report.missing == ["stem.1.bias"]
    assert torch.equal(model.state_dict()["stem.0.bias"], average["stem.0.bias"])
    with pytest.raises(InputError, match="no entry 'model_emma'; did you mean 'model_ema'"):
        load_weights(model, f"{path}#key=model_emma")
    for wrong in ("ema", "key=", "strict=no", "key=model_ema,"):
        with pytest.raises(InputError, match="behind # stand key=NAME"):
            load_weights(model, f"{path}#{wrong}")
    odd = tmp_path / "a#b.pth"
    odd.write_bytes(path.read_bytes())
    load_weights(model, str(odd), verbose=False)
    load_weights(model, f"{odd}#key=state_dict", verbose=False)


@pytest.mark.parametrize("zipped", [True, False])
def test_other_pickle_protocols_are_named(tmp_path, zipped):
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pth", pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="it is written by pickle protocol 4"):
        load_weights(timm_model(), tmp_path / "x.pth")
