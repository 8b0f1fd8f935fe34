"""The form that speed is measured against: the same numbers, on contiguous maps throughout."""

import copy

import pytest
import timm
import torch
from torch import nn

from lk_downstream.backbones.authors import authors_form


@pytest.mark.parametrize("name", ["test_slak", "test_replknet"])
def test_maps_stay_contiguous(name, randomized):
    model = randomized(timm.create_model(name, num_classes=5))
    theirs = authors_form(copy.deepcopy(model))
    layouts = {}
    for key, layer in theirs.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_hook(lambda layer, x, out, key=key: layouts.update({key: x[0].is_contiguous()}))
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-4, atol=1e-5)
    assert layouts
    assert all(layouts.values())


def test_other_models_have_none():
    assert authors_form(timm.create_model("test_convnext")) is None
