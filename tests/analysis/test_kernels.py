"""Large kernels: what lies outside of smaller ones, merged branches, and zeros."""

import csv
import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from lk_downstream import InputError, create_backbone, reparameterize
from lk_downstream.analysis.kernels import by_stage, kernels_of
from lk_downstream.commands import run
from lk_downstream.reports.kernels import DrawnKernel, draw_kernels


def one_kernel(side, weights):
    conv = nn.Conv2d(2, 2, side, padding=side // 2, groups=2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.as_tensor(weights))
    return nn.Sequential(conv)


def test_what_lies_outside_by_hand():
    (kernel,) = kernels_of("ones", one_kernel(7, torch.ones(2, 1, 7, 7)), inner=(1, 3, 5, 7, 9))
    assert kernel.outside == {1: 48 / 49, 3: pytest.approx(40 / 49), 5: pytest.approx(24 / 49), 7: 0.0, 9: 0.0}
    weights = torch.zeros(2, 1, 7, 7)
    weights[0, 0, 3, 3], weights[1, 0, 0, 6] = -3.0, 1.0  # the sign does not count
    (kernel,) = kernels_of("two", one_kernel(7, weights), inner=(3, 5))
    assert kernel.outside == {3: 0.25, 5: 0.25}
    assert kernel.magnitude[3, 3] == 1.5
    assert kernel.nonzero[0, 6] == 0.5
    assert kernel.density == 2 / 98


@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
def test_branches_are_merged_with_their_norms(name, randomized):
    model = randomized(create_backbone(name))
    kernels = kernels_of(name, model, least=5)
    merged = reparameterize(model, dense=True)
    expected = [
        module.weight.double().abs().mean((0, 1)).detach().numpy()
        for path, module in merged.named_modules()
        if path.endswith("lkb_reparam")
    ]
    assert len(kernels) == len(expected) == 5
    for kernel, magnitude in zip(kernels, expected):
        np.testing.assert_allclose(kernel.magnitude, magnitude, rtol=1e-4, atol=1e-7)
    # And those of a model that is merged already.
    for kernel, again in zip(kernels, kernels_of(name, reparameterize(model), least=5)):
        np.testing.assert_allclose(again.magnitude, kernel.magnitude, rtol=1e-4, atol=1e-7)
    assert [kernel.stage for kernel in kernels] == [0, 1, 2, 2, 3]
    assert [kernel.stage for kernel in by_stage(kernels)] == [0, 1, 2, 3]
    assert by_stage(kernels)[2].name == f"{kernels[2].name} to {kernels[3].name}"
    mean = (kernels[2].magnitude + kernels[3].magnitude) / 2
    np.testing.assert_allclose(by_stage(kernels)[2].magnitude, mean)


def test_zeros_of_slak():
    model = create_backbone("test_slak")
    tall = model.body.stages[0][0].large_kernel.LoRA1.conv.weight
    with torch.no_grad():
        tall[:, :, 0] = 0  # the first of 15 rows
    first, *others = kernels_of("slak", model)
    wide, small = tall.numel(), 24 * 9
    assert first.density == pytest.approx(1 - 24 * 3 / (tall.numel() + wide + small))
    assert {kernel.density for kernel in others} == {1.0}
    assert first.nonzero[0].max() == 0  # all that the cross has there
    assert first.nonzero[1].tolist() == [0.0] * 6 + [1.0] * 3 + [0.0] * 6
    assert first.nonzero[7].min() == 1


def test_convnext_has_kernels_and_resnet_has_none():
    (kernel, *_) = kernels_of("convnext", create_backbone("test_convnext"))
    assert kernel.magnitude.shape == (7, 7)
    assert kernel.name.endswith("conv_dw")
    mobile = kernels_of("mobile", create_backbone("mobilenetv2_large_kernel", kernel=7, stages="last"))
    assert [kernel.stage for kernel in mobile] == [5, 5, 6]  # one has stride 2
    (isotropic,) = kernels_of("isotropic", timm.create_model("convnext_isotropic_small", depth=1, dim=8))
    assert isotropic.stage == 0
    with pytest.raises(InputError, match="resnet has no depthwise kernels of 5 x 5 or more"):
        kernels_of("resnet", create_backbone("resnet10t"))
    with pytest.raises(InputError, match="odd numbers, not 4"):
        kernels_of("convnext", create_backbone("test_convnext"), inner=[4])


def test_only_models_with_zeros_have_a_second_row():
    full, holes = np.ones((7, 7)), np.eye(7)
    dense = DrawnKernel("dense", 0, full, full, 1.0, {3: 0.5})
    sparse = DrawnKernel("sparse", 0, full, holes, 0.5, {3: 0.5})
    heights = [draw_kernels(kernels).shape[0] for kernels in ([dense], [dense, sparse])]
    assert heights[1] == 3 * heights[0]


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("kernels", ["--models", "[test_slak]", "--output", "out/k", "--inner", "[3, 5]"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["k.csv", "k.json", "k.png"]
    written = json.loads((tmp_path / "out" / "k.json").read_text(encoding="utf-8"))
    assert [row["kernel"] for row in written] == [[15, 15], [13, 13], [11, 11], [11, 11], [7, 7]]
    with (tmp_path / "out" / "k.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    outside = [row["outside"]["5"] for row in written]
    assert [float(row["outside 5x5"]) for row in rows] == pytest.approx(outside, abs=1e-6)
    assert "outside 5x5" in capsys.readouterr().out  # in a pipe no column is cut
