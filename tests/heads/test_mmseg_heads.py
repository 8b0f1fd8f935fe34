"""mmsegmentation's decode heads on a backbone's channels."""

import sys

import pytest
import torch

from lk_downstream.errors import InputError
from lk_downstream.heads import DecodeHead
from lk_downstream.heads.mmseg import registry

CHANNELS = (8, 16, 24, 32)


def maps(batch=2, side=32):
    return [torch.randn(batch, width, side >> level, side >> level) for level, width in enumerate(CHANNELS)]


@pytest.mark.parametrize("name", ["SegformerHead", "PSPHead", "ASPPHead", "LightHamHead"])
def test_any_head_of_the_registry(name):
    head = DecodeHead(CHANNELS, 5, name, channels=16)
    logits = head(maps())
    assert logits.shape[:2] == (2, 5)
    logits.sum().backward()
    assert all(tensor.grad is not None for tensor in head.parameters())


def test_options_and_levels_of_a_named_head():
    head = DecodeHead(CHANNELS, 5, "FPNHead", channels=16, options={"feature_strides": [4, 8, 16, 32]})
    assert head(maps()).shape == (2, 5, 32, 32)
    assert DecodeHead(CHANNELS, 5, "FCNHead", in_index=0, channels=16)(maps()).shape == (2, 5, 32, 32)
    assert "UPerHead" in registry()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("SegformrHead", {}, "did you mean 'SegformerHead'"),
        ("OCRHead", {}, "refines another head's output"),
        ("PSPHead", {"pool_scale": [1]}, "refuses its options"),
        ("FPNHead", {}, "feature_strides"),
    ],
)
def test_a_wrong_head_is_refused_in_a_sentence(name, options, words):
    with pytest.raises(InputError, match=words):
        DecodeHead(CHANNELS, 5, name, options=options)


def test_a_level_that_is_not_there():
    with pytest.raises(InputError, match="in_index 4 of the head is out of range"):
        DecodeHead(CHANNELS, 5, "FCNHead", in_index=4)


def test_mmsegmentation_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmseg.registry", None)
    with pytest.raises(InputError, match="pip install onedl-mmsegmentation onedl-mmcv onedl-mmengine"):
        DecodeHead(CHANNELS, 5, "PSPHead")
