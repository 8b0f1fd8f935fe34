import re

import pytest
import timm

import lk_downstream
from lk_downstream import InputError, create_backbone
from lk_downstream.backbones import factory, registry

ROWS = [weights for published in registry.PUBLISHED.values() for weights in published.values()]


def test_every_row_names_a_model_and_its_own_file():
    assert len(ROWS) == len({row.url for row in ROWS}) == 24 + 6 + 3 + 6
    for row in ROWS:
        assert timm.is_model(row.model)
        assert row.url.startswith("https://")
        assert row.license in ("MIT", "Apache-2.0")
        assert row.num_classes in (150, 1000, 21841)
        assert row.input_size in (224, 320, 384, 512, 640)
        if row.license == "Apache-2.0":
            assert re.search(r"-[0-9a-f]{8}\.pth$", row.url)


def test_names_and_files_agree():
    for row in ROWS:
        file = row.url.rsplit("/", 1)[1]
        assert ("22k" in file or "in21k" in file) == ("in22k" in row.name), row
        assert ("384" in file) == (row.input_size == 384) == ("384" in row.name), row
        if row.model.startswith("convnext"):
            assert row.model.replace("isotropic", "iso") in file, row
        else:
            assert row.model.replace("replknet_", "replknet-").lower() in file.lower(), row


@pytest.fixture
def loaded(monkeypatch):
    calls = []
    monkeypatch.setattr(factory, "load_weights", lambda model, source: calls.append(source))
    return calls


@pytest.mark.parametrize(
    ("name", "weights", "url", "mean"),
    [
        ("convnext_tiny", "in1k", "convnext_tiny_1k_224.pth", 0.485),
        ("convnext_base", "in22k_in1k_384", "convnext_base_22k_1k_384.pth", 0.485),
        ("replknet_31b", "in1k", "replknet-31B_3rdparty_in1k_20221118-fd08e268.pth", 0.485),
        ("replknet_xl", "meg73m_in1k_320", "replknet-XL_meg73m-pre_3rdparty_in1k-320px_20221118-88259b1d.pth", 0.5),
    ],
)
def test_names_of_weights_resolve_by_model(name, weights, url, mean, loaded):
    tiny = {"dims": (8,) * 4} if name.startswith("convnext") else {"channels": (8,) * 4, "layers": (1,) * 4}
    backbone = create_backbone(name, weights=weights, **tiny)
    assert loaded[0].endswith("/" + url)
    assert backbone.mean[0] == mean


@pytest.mark.parametrize("weights", ["folder/file.pth", "file.pth", "https://host/file"])
def test_paths_and_addresses_pass_through(weights, loaded):
    create_backbone("test_slak", weights=weights)
    assert loaded == [weights]


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("replknet_31b", "in1k_386", r"did you mean 'in1k_384'.*in22k_in1k.*by hand .*DingXiaoH/RepLKNet-pytorch"),
        (
            "slak_tiny",
            "in1k",
            r"no weights 'in1k' for slak_tiny; download the authors' files by hand .*VITA-Group/SLaK",
        ),
        ("convnext_large", "in1k", r"known by name are in1k_ema, in1k_384.*fb_in1k"),
        ("resnet18", "in1k", r"known by name are .*a1_in1k"),
    ],
)
def test_unknown_names_say_what_there_is(name, weights, message):
    with pytest.raises(InputError, match=message):
        create_backbone(name, weights=weights)


def test_weights_of_timm_are_loaded_by_timm(monkeypatch):
    asked = []
    create = timm.create_model

    def spy(name, pretrained=False, pretrained_cfg=None, **arguments):
        asked.append((pretrained, pretrained_cfg))
        return create(name, pretrained_cfg=pretrained_cfg, **arguments)

    monkeypatch.setattr(timm, "create_model", spy)
    backbone = create_backbone("test_convnext", weights="r160_in1k")
    assert asked[-1] == (True, "r160_in1k")
    assert backbone.mean == (0.5, 0.5, 0.5)
    # Layer scales come from the file then, not from the downstream initial value.
    assert backbone.body.stages[0].blocks[0].gamma.max() < 1e-5


def test_load_weights_knows_models_with_names(monkeypatch):
    seen = []

    def download(url):
        seen.append(url)
        raise InputError("offline")

    monkeypatch.setattr(lk_downstream.backbones.weights.files, "download", download)
    with pytest.raises(InputError, match="offline"):
        lk_downstream.load_weights(timm.create_model("test_convnext"), "convnext_tiny.in1k_ade20k_512")
    assert seen == ["https://dl.fbaipublicfiles.com/convnext/ade20k/upernet_convnext_tiny_1k_512x512.pth"]
