"""mmsegmentation's decode heads on a backbone's channels."""

import pytest
import torch
from torch import nn

from lk_downstream.errors import InputError
from lk_downstream.heads import DecodeHead, FCNHead, UPerHead
from lk_downstream.heads.mmseg import head_names

CHANNELS = (8, 16, 24, 32)


def maps(batch=2, side=32):
    return [torch.randn(batch, width, side >> level, side >> level) for level, width in enumerate(CHANNELS)]


def test_uper_head_has_the_published_keys_and_size():
    head = UPerHead((96, 192, 384, 768), 150)
    auxiliary = FCNHead((96, 192, 384, 768), 150)
    assert sum(tensor.numel() for tensor in head.parameters()) == 31_497_366  # recipes.md 2.4
    assert sum(tensor.numel() for tensor in auxiliary.parameters()) == 923_798
    keys = head.state_dict()
    assert keys["psp_modules.3.1.conv.weight"].shape == (512, 768, 1, 1)
    assert keys["lateral_convs.2.conv.weight"].shape == (512, 384, 1, 1)
    assert keys["fpn_bottleneck.conv.weight"].shape == (512, 2048, 3, 3)
    assert auxiliary.state_dict()["convs.0.conv.weight"].shape == (256, 384, 3, 3)


def test_uper_head_reads_all_levels_and_its_last_layer_starts_small():
    head = UPerHead(CHANNELS, 5, channels=16)
    assert head(maps()).shape == (2, 5, 32, 32)
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert not head.conv_seg.bias.any()


def test_fcn_head_reads_one_level():
    assert FCNHead(CHANNELS, 5, in_index=1, channels=16)(maps()).shape == (2, 5, 16, 16)


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
    assert "UPerHead" in head_names()


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
        FCNHead(CHANNELS, 5, in_index=4)


def test_norms_become_synchronised_without_new_keys():
    head = UPerHead(CHANNELS, 5, channels=16)
    keys = list(head.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert list(converted.state_dict()) == keys
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
