"""The papers' studies: each file is a plan whose options there are, and whose models cost what is published."""

import inspect
import re

import pytest
import torch

from lk_downstream import config_files
from lk_downstream.analysis.costs import UPerNet, costs, total
from lk_downstream.backbones import create_backbone, create_classifier
from lk_downstream.backbones.modern_resnet import STEPS
from lk_downstream.commands.study import read
from lk_downstream.study import plan

STUDIES = config_files.studies()
BACKBONE = "model.backbone."
PASSED_ON = f"{BACKBONE}dict_kwargs."


def runs_of(name):
    options = read([f"--study={name}"])
    return {run.variant: run for run in plan(options.axes, options.variants)}


@pytest.mark.parametrize("name", STUDIES)
def test_the_options_of_a_study_are_there(name):
    runs = runs_of(name)
    assert len(runs) > 1
    known = inspect.signature(create_backbone).parameters
    for run in runs.values():
        own = [option.removeprefix(BACKBONE) for option in run.options if option.startswith(BACKBONE)]
        assert [option for option in own if not option.startswith("dict_kwargs.") and option not in known] == []


def cost(name, run):
    """Thousand millions of multiply-adds and millions of parameters by what is not zero."""
    arguments = {key.removeprefix(PASSED_ON): value for key, value in run.options.items() if key.startswith(PASSED_ON)}
    sparse = re.search(r"'sparsity': ([\d.]+)", str(run.options.get("trainer.callbacks")))
    with torch.device("meta"):
        if name.startswith("replknet"):
            found = total(costs(UPerNet("replknet_31b", 150, **arguments).eval(), (512, 2048)), auxiliary=False)
        else:
            density = 1 - float(sparse[1]) if sparse else 1.0
            found = total(costs(create_classifier("slak_tiny", **arguments).eval(), (224, 224), density))
    return found.macs / 1e9, found.parameters / 1e6


def test_replknets_kernels_cost_what_is_published():
    for run in runs_of("replknet_kernels_ade20k").values():
        assert cost("replknet", run)[0] == pytest.approx(run.published["macs"], rel=1e-3)


def test_slaks_forms_cost_what_is_published():
    runs = runs_of("slak_kernels_imagenet1k")
    for name in ("7", "plain_51", "decomposed_51"):
        macs, parameters = cost("slak", runs[name])
        assert parameters == pytest.approx(runs[name].published["parameters"], abs=0.5)  # published without decimals
        assert macs == pytest.approx(runs[name].published["macs"], rel=0.015)  # published with one


def test_slaks_sparse_forms_have_the_published_parameters():
    """Their multiply-adds are published at densities of each layer that are not."""
    for run in runs_of("slak_sparsity_imagenet1k").values():
        assert cost("slak", run)[1] == pytest.approx(run.published["parameters"], abs=0.65)


@pytest.mark.parametrize(("name", "index"), [("modern_resnet50_imagenet1k", 0), ("modern_resnet200_imagenet1k", 1)])
def test_the_steps_to_convnext_are_those_of_the_models(name, index):
    found = [(run.variant, run.published["macs"], run.published["top1"]) for run in runs_of(name).values()]
    assert found == [(step.name, step.macs[index], pytest.approx(step.top1[index] / 100)) for step in STEPS]
