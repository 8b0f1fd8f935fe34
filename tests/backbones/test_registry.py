import re

import pytest
import timm
import torch

import lk_downstream
from lk_downstream import InputError, create_backbone
from lk_downstream.backbones import factory, manual_downloads, registry

ROWS = [weights for published in registry.PUBLISHED.values() for weights in published.values()]


def test_every_row_names_a_model_and_its_own_file():
    assert len(ROWS) == len({row.url for row in ROWS}) == 24 + 6 + 7 + 24 + 6 + 3 + 6
    for row in ROWS:
        assert timm.is_model(row.model)
        assert row.url.startswith("https://")
        assert row.license in ("MIT", "Apache-2.0")
        assert row.num_classes in (80, 150, 1000, 21841)
        assert row.input_size in (224, 320, 384, 512, 640, 800)
        if row.license == "Apache-2.0":
            assert re.search(r"-[0-9a-f]{8}\.pth$", row.url)


def test_names_and_files_agree():
    for row in ROWS:
        file = row.url.rsplit("/", 1)[1]
        assert ("noema" in file) <= ("ema" not in row.name), row
        assert ("3rdparty" in file or "replknet" in file) == (row.license == "Apache-2.0" and "_own" not in row.name), (
            row
        )
        assert ("cascade" in file) == ("cascade" in row.name), row
        if "/mmsegmentation/" not in row.url:  # whose names tell crops apart and no data
            assert ("22k" in file or "in21k" in file) == ("in22k" in row.name), row
        assert ("384" in file) == (row.input_size == 384) == ("384" in row.name), row
        if row.model.startswith("convnext"):
            assert row.model.replace("isotropic", "iso") in file.replace("-", "_"), row
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
            r"'in1k' of slak_tiny \(82\.5 top-1\) lie on a drive, .*open https://drive\.google\.com/file/d/1Iut2f5FM"
            r".*by hand .*VITA-Group/SLaK",
        ),
        (
            "replknet_xl",
            "meg73m_ade20k_640",
            r"drive.*14GbBI8tdeEl_ECytDCdrfAfNm1McqMv4.*give its path.*RepLKNet-pytorch",
        ),
        (
            "slak_base",
            "in22k",
            r"no weights 'in22k' for slak_base; .*by hand .*SLaK: in1k, in1k_ade20k_512\.",
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
    with pytest.raises(InputError, match="offline"):
        lk_downstream.load_weights(create_backbone("convnext_tiny", dims=(8,) * 4), "in1k_ade20k_512")
    assert seen == ["https://dl.fbaipublicfiles.com/convnext/ade20k/upernet_convnext_tiny_1k_512x512.pth"] * 2
    with pytest.raises(
        InputError, match=r"no weights 'in1k_ade20k_521' for convnext_tiny; did you mean 'in1k_ade20k_512'"
    ):
        lk_downstream.load_weights(create_backbone("convnext_tiny", dims=(8,) * 4), "in1k_ade20k_521")
    with pytest.raises(InputError, match=r"no weights 'in1kk' for convnext_tiny; did you mean 'in1k'"):
        lk_downstream.load_weights(timm.create_model("test_convnext"), "convnext_tiny.in1kk")
    with pytest.raises(InputError, match=r"lie on a drive.*HMLBXtKUDY6wyFF"):
        lk_downstream.load_weights(create_backbone("slak_small", dims=(8,) * 4), "in1k_ade20k_512")


def test_names_on_drives():
    links = [link for published in manual_downloads.DOWNLOADS.values() for link, _ in published.values()]
    assert len(links) == len(set(links)) == 25
    for model, published in manual_downloads.DOWNLOADS.items():
        assert timm.is_model(model)
        assert not published.keys() & registry.PUBLISHED.get(model, {}).keys()  # what can be downloaded, is


def test_models_without_weights_have_the_statistics_of_their_published_segmentation_files():
    for row in ROWS:
        if "ade20k" in row.name:
            with torch.device("meta"):
                backbone = create_backbone(row.model)
            assert (backbone.mean, backbone.std) == (row.mean, row.std)
    with torch.device("meta"):
        assert create_backbone("replknet_xl").mean == create_backbone("replknet_xl").std == (0.5,) * 3
