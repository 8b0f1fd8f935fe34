"""Parameters and multiply-adds of the published models."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lk_downstream import InputError
from lk_downstream.analysis import published
from lk_downstream.analysis.costs import build, costs, total
from lk_downstream.commands import run

TOOL = Path(__file__).parents[2] / "tools" / "profile.py"


def sizes(name, side, classes=None, merged=False, density=1.0, auxiliary=True):
    height, width = (side, side) if classes is None else (side, 4 * side)
    return total(costs(build(name, classes, merged), (height, width), density), auxiliary)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("convnext_tiny", 28_589_128, {224: 4.46, 384: 13.09}),
        ("convnext_small", 50_223_688, {224: 8.68, 384: 25.52}),
        ("convnext_base", 88_591_464, {224: 15.35, 384: 45.12}),
        ("convnext_large", 197_767_336, {224: 34.36, 384: 100.98}),
        ("convnext_xlarge", 350_196_968, {224: 60.92, 384: 179.03}),
        ("replknet_31b", 79_864_168, {224: 15.43, 384: 45.35}),
        ("replknet_31l", 172_671_016, {384: 96.33}),
        ("replknet_xl", 335_435_752, {320: 128.73}),
        ("slak_tiny", 50_703_838, {224: 8.70}),
        ("slak_small", 91_131_820, {224: 16.60}),
        ("slak_base", 157_950_792, {224: 28.51}),
    ],
)
def test_classifiers_in_training_form(name, parameters, macs):
    model = build(name)
    for side, expected in macs.items():
        cost = total(costs(model, (side, side)))
        assert cost.parameters == parameters
        assert round(cost.macs / 1e9, 2) == expected


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("convnext_tiny", 44_615_857),
        ("convnext_xlarge", 392_900_177),
        ("replknet_31b", 101_226_193),
        ("replknet_31l", 204_703_633),
        ("replknet_xl", 378_138_961),
    ],
)
def test_classifiers_for_imagenet_22k(name, parameters):
    assert sum(value.numel() for value in build(name, num_classes=21841).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "side", "parameters", "macs"),
    [
        ("replknet_31b", 224, 79_527_272, 15.35),
        ("replknet_31b", 384, 79_527_272, 45.12),
        ("replknet_31l", 384, 172_165_672, 95.99),
        ("replknet_xl", 320, 335_399_656, 128.73),
    ],
)
def test_merged_classifiers(name, side, parameters, macs):
    cost = sizes(name, side, merged=True)
    assert cost.parameters == parameters
    assert round(cost.macs / 1e9, 2) == macs


@pytest.mark.parametrize(("name", "parameters"), [("slak_tiny", 30.47), ("slak_small", 54.78), ("slak_base", 94.91)])
def test_what_is_not_zero_in_slak(name, parameters):
    assert round(sizes(name, 224, density=0.6).parameters / 1e6, 2) == parameters


@pytest.mark.parametrize(
    ("name", "side", "parameters", "macs"),
    [
        ("convnext_tiny", 512, 60.24, 938.5),
        ("convnext_small", 512, 81.88, None),
        ("convnext_base", 512, 122.10, 1169.3),
        ("convnext_base", 640, 122.10, 1827.1),
        ("convnext_large", 640, 234.99, 2457.4),
        ("convnext_xlarge", 640, 391.14, 3334.3),
        ("slak_tiny", 512, 84.03, None),
        ("slak_small", 512, 124.45, None),
        ("slak_base", 512, 193.69, None),
    ],
)
def test_upernet(name, side, parameters, macs):
    parts = costs(build(name, 150), (side, 4 * side))
    assert parts.keys() == {"backbone", "head", "auxiliary_head"}
    assert round(total(parts).parameters / 1e6, 2) == parameters
    assert macs is None or round(total(parts, auxiliary=False).macs / 1e9, 1) == macs
    if name == "convnext_tiny":
        assert (parts["head"].parameters, parts["auxiliary_head"].parameters) == (31_497_366, 923_798)


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [("replknet_31b", 512, 111.8), ("replknet_31l", 640, 207.6), ("replknet_xl", 640, 373.9)],
)
def test_merged_upernet(name, side, parameters):
    cost = sizes(name, side, classes=150, merged=True, auxiliary=False)
    assert round(cost.parameters / 1e6, 1) == parameters


def test_non_zero_upernet_of_slak():
    metrics = {name: sizes(name, 512, 150, density=0.6).parameters for name in ("slak_tiny", "slak_small", "slak_base")}
    assert [round(value / 1e6, 1) for value in metrics.values()] == [64.2, 88.5, 131.2]


@pytest.mark.parametrize("name", ["test_convnext", "test_replknet", "test_slak", "resnet18"])
def test_against_pytorchs_counter(name):
    """Which counts every matrix product and convolution, by operator, twice."""
    model = build(name).to_empty(device="cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 96, 64))
    cost = total(costs(build(name), (96, 64)))
    assert cost.macs == counter.get_total_flops() / 2
    assert cost.parameters == sum(value.numel() for value in model.parameters())


def test_density_is_for_what_slak_prunes():
    dense, sparse = sizes("test_slak", 64, classes=5), sizes("test_slak", 64, classes=5, density=0.5)
    model = build("test_slak", 5)
    pruned = sum(value.numel() for value in model.backbone.body.parameters() if value.ndim in (2, 4))
    assert dense.parameters - sparse.parameters == 0.5 * pruned
    assert sparse.kernels == dense.kernels > 0
    assert sizes("test_convnext", 64, density=0.5) == sizes("test_convnext", 64)


ROWS = [pytest.param(row, id=f"{row.model} {row.size} {row.macs}") for row in published.ROWS]


@pytest.mark.parametrize("row", ROWS)
def test_every_published_row_within_one_percent_or_explained(row):
    differences = published.compare(row).differences
    assert max(map(abs, differences)) < 0.05
    assert (max(map(abs, differences)) > 0.01) == bool(row.note), "a note where it is needed, and only there"


def test_rows_are_those_of_the_tables():
    assert len(published.ROWS) == len(set(published.ROWS)) == 37
    models = {row.model for row in published.ROWS if row.classes == 150}
    assert {name.split("_")[0] for name in models} == {"convnext", "replknet", "slak"}
    assert len(models) == 11


def test_the_command_on_one_model(capsys):
    main = functools.partial(run, "profile")
    assert main(["--model", "slak_tiny", "--upernet", "--size", "512", "2048", "--density", ".6"]) == 0
    printed = capsys.readouterr().out
    assert printed.split()[:4] == ["slak_tiny,", "2048", "x", "512"]
    assert printed.splitlines()[-1].split()[:3] == ["total", "64.19", "M"]
    assert main(["--model", "slak_tiny", "--upernet", "--no-auxiliary", "--classes", "19"]) == 0
    assert "auxiliary" not in capsys.readouterr().out
    assert main(["--model", "slak_tinny"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no model named 'slak_tinny'; did you mean 'slak_tiny'")
    assert main(["--model", "vit_tiny_patch16_224", "--size", "100"]) == 1
    assert "does not take images of 100 x 100 pixels" in capsys.readouterr().err
    for words in (["--density", "2"], ["--size", "0"], ["--size", "1", "2", "3"], ["--upernet", "--classes", "0"]):
        assert main(["--model", "slak_tiny", *words]) == 1
        assert "error: --size takes one or two sides" in capsys.readouterr().err
    with pytest.raises(InputError, match="no maps at stride 4"):
        build("vit_tiny_patch16_224", 5)


def test_the_tool_does_not_stand_in_for_the_standard_librarys_module():
    """Lightning imports cProfile, which imports `profile`: a tool beside this one finds the tool first."""
    command = f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import cProfile; cProfile.run('1'); print('runs')"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout.rstrip().endswith("runs")
