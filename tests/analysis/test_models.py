"""What is analysed, as a command line names it."""

import json
import os

import pytest
import torch

from lk_downstream import Backbone, Classifier, InputError, create_backbone
from lk_downstream.analysis.models import checkpoint_of, find_model


def test_the_best_checkpoint_of_a_run(tmp_path):
    folder = tmp_path / "run_0" / "checkpoints"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"run_0 holds no checkpoints/last.ckpt: give"):
        checkpoint_of(tmp_path / "run_0")
    for number, name in enumerate(("last", "best_step=4", "best_step=8")):
        (folder / f"{name}.ckpt").touch()
        os.utime(folder / f"{name}.ckpt", (number, number))
        expected = name
        assert checkpoint_of(tmp_path / "run_0").stem == checkpoint_of(folder).stem == expected
    (tmp_path / "run_0" / "metrics.json").write_text(json.dumps({"best": {"step": 4}}), encoding="utf-8")
    assert checkpoint_of(tmp_path / "run_0").stem == "best_step=4"  # of several the one that the report names
    (tmp_path / "run_0" / "metrics.json").write_text("[]", encoding="utf-8")
    assert checkpoint_of(tmp_path / "run_0").stem == "best_step=8"
    assert checkpoint_of(folder / "last.ckpt").stem == "last"


def test_models_by_name_and_weights(tmp_path):
    backbone = create_backbone("test_slak")
    torch.save(backbone.state_dict(), tmp_path / "slak.pth")
    found = find_model(f"test_slak:{tmp_path / 'slak.pth'}")
    assert isinstance(found, Backbone)
    assert not found.training
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in backbone.state_dict().items())
    assert isinstance(find_model("resnet10t"), Backbone)
    assert isinstance(find_model("test_vit"), Classifier)  # one stride alone
    with pytest.raises(InputError, match="no model named 'slak_tny'; did you mean 'slak_tiny'"):
        find_model("slak_tny")
    with pytest.raises(InputError, match=r"absent\.ckpt"):
        find_model("absent.ckpt")
    with pytest.raises(InputError, match="no weights 'in2k' for convnext_tiny"):
        find_model("convnext_tiny:in2k")
