"""The models of the papers' ablations are options of the published ones: parameters and multiply-adds as published."""

import pytest
from torch import nn

from lk_downstream.analysis.costs import build, costs, total


def counted(name, size, density=1.0, **arguments):
    cost = total(costs(build(name, **arguments), size, density))
    return cost.parameters / 1e6, cost.macs / 1e9


@pytest.fixture(autouse=True)
def without_initial_weights(monkeypatch):
    """Which take most of the time on the meta device, and are not looked at."""
    monkeypatch.setattr(nn.Module, "apply", lambda model, function: model)
    for layer in (nn.Conv2d, nn.Linear):
        monkeypatch.setattr(layer, "reset_parameters", lambda layer: None)


@pytest.mark.parametrize(
    ("arguments", "density", "parameters", "macs"),
    [
        ({"kernel_size": (7, 7, 7, 7, 100)}, 1.0, 29, 4.5),
        ({"kernel_size": (51, 49, 47, 13, 100), "decomposed": False}, 1.0, 38, 9.4),  # one plain kernel
        ({"kernel_size": (61, 59, 57, 13, 100), "decomposed": False}, 1.0, 43, 11.6),
        ({"kernel_size": (31, 29, 27, 13, 5)}, 1.0, 30, 5.0),
        ({"kernel_size": (51, 49, 47, 13, 5)}, 1.0, 31, 5.4),
        ({"kernel_size": (61, 59, 57, 13, 5)}, 1.0, 31, 5.6),
        ({"width_factor": 1.1}, 0.80, 29, 5.0),
        ({"width_factor": 1.9}, 0.30, 32, 5.0),
    ],
)
def test_forms_of_slak(arguments, density, parameters, macs):
    """SLaK paper, Table 2 and the trade of sparsity for width, rounded or cut there.

    Counted at one density; its authors' differ by layer.
    """
    found = counted("slak_tiny", (224, 224), density, **{"width_factor": 1.0, **arguments})
    assert found[0] == pytest.approx(parameters, abs=1)
    assert found[1] == pytest.approx(macs, rel=0.02 if density == 1 else 0.07)


def test_kernels_of_replknet():
    """RepLKNet paper, Table 5: from 3 x 3 to 31 x 31 UPerNet takes from 1119 to 1170 G at 2048 x 512."""
    options = {"name": "replknet_31b", "size": (512, 2048), "small_kernel": 0}  # merged
    small, large = (counted(**options, kernel_sizes=kernels)[1] for kernels in (3, (31, 29, 27, 13)))
    assert large - small == pytest.approx(1170 - 1119, abs=1)
