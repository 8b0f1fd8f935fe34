"""The papers' studies: their files are plans, and their models cost what is published."""

from pathlib import Path

import pytest
import torch

from lk_downstream import config_files
from lk_downstream.analysis.costs import UPerNet, costs, total
from lk_downstream.backbones import create_classifier
from lk_downstream.backbones.modern_resnet import STEPS
from lk_downstream.commands.study import read
from lk_downstream.study import plan

STUDIES = config_files.studies()
# What the papers say otherwise: published thousand millions and millions against what the networks as described have.
OTHER = {}


def runs_of(name):
    options = read([f"--study={name}"])
    return options, plan(options.axes, options.variants)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_a_plan_whose_models_can_be_made(name):
    options, runs = runs_of(name)
    assert len(runs) > 1
    shared = dict(word.removeprefix("--").split("=", 1) for word in options.words if "=" in word)
    for run in {run.variant: run for run in runs}.values():
        model = {key.removeprefix("model.backbone."): value for key, value in run.options.items() if ".backbone." in key}
        model.pop("weights", None)
        default = {"replknet": "replknet_31b", "slak": "slak_tiny"}.get(name.split("_")[0], "")
        backbone = model.pop("name", shared.get("model.backbone.name", default))
        with torch.device("meta"):
            if "macs" in run.published and name.endswith("ade20k"):
                network = UPerNet(backbone, 150, **model).eval()
                found = total(costs(network, (512, 2048)), auxiliary=False).macs / 1e9
            else:
                network = create_classifier(backbone, **model).eval()
                found = total(costs(network, (224, 224))).macs / 1e9
        if "macs" in run.published:
            print(name, run.variant, found, run.published["macs"])
