"""Models shared as folders and by the Hub: the same predictions, bit for bit, and nothing of a file is run."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from hub_server import hub
from safetensors.torch import load_file, save_file

import lk_downstream
from lk_downstream import InputError, commands, sharing
from lk_downstream.tasks import checkpoint_format, load_task

OLD = Path(__file__).parent / "checkpoints" / "version_1.ckpt"  # as written before checkpoints had a number


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder_as_hub(tmp_path, monkeypatch):
    """No test here asks the real Hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(sharing.FOLDER, str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def run(tmp_path):
    """The folder of a run."""
    folder = tmp_path / "runs" / "convnext_atto_folder" / "run_0"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD, folder / "checkpoints" / "last.ckpt")
    data = {"class_path": "lk_downstream.data.ClassFolder", "init_args": {"root": "/home/somebody/insects"}}
    settings = {"trainer": {"max_steps": 2}, "data": {"init_args": {"dataset": data, "batch_size": 4}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    metrics = {"best": {"step": 2, "summary": {"top1": 0.4, "ECE": float("nan")}}}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


def test_a_round_trip_predicts_the_same_to_the_bit(run, image, tmp_path, capsys, monkeypatch):
    assert commands.run("push", [str(run), "me/insects", "--license", "mit"]) == 0
    assert "me" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    expected = lk_downstream.load(run, device="cpu").predict(image, probabilities=True)
    got = lk_downstream.load("hf-hub:me/insects", device="cpu").predict(image, probabilities=True)
    assert np.array_equal(got.probabilities, expected.probabilities)
    assert got.classes == expected.classes == ("ant", "bee", "cat")


def test_timm_loads_what_is_shared_of_a_classifier(run, folder_as_hub):
    sharing.share(run, "me/insects")
    model = timm.create_model(f"local-dir:{folder_as_hub / 'me' / 'insects'}", pretrained=True).eval()
    task = load_task(OLD)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), task.backbone.body(x))
    assert tuple(model.pretrained_cfg["mean"]) == tuple(task.backbone.mean)
    sharing.share(run, "me/backbone", part="backbone")
    features = timm.create_model(f"local-dir:{folder_as_hub / 'me' / 'backbone'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(features.forward_features(x), task.backbone.body.forward_features(x))
    with pytest.raises(InputError, match="a backbone for timm"):
        sharing.read_folder(folder_as_hub / "me" / "backbone")


def test_the_card_says_what_the_run_says(run, folder_as_hub):
    sharing.share(run, "me/insects", license="mit")
    text = (folder_as_hub / "me" / "insects" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["pipeline_tag"]) == ("mit", "image-classification")
    for words in ("ClassFolder", "insects", "| top1 | 40.00 |", "lk-downstream evaluate", "ant, bee, cat", "hf-hub:me"):
        assert words in text
    assert "somebody" not in text
    assert "nan" not in text


def test_backbones_of_a_segmentation_are_timms(tmp_path, folder_as_hub):
    from lk_downstream import create_backbone

    backbone = create_backbone("test_convnext")

    class Task(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone
            self.head = torch.nn.Identity()
            self.extra = torch.nn.Linear(1, 1)
            self.preparation = None
            self.classes = ("a", "b")
            self.recipe = {"init_args": {"backbone": {"init_args": {"name": "test_convnext"}}}}

    task = Task().eval()
    sharing._save_timm(sharing._whole_backbone(task), task, tmp_path)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(model(x), backbone.body.forward_intermediates(x, intermediates_only=True)):
            assert torch.equal(one, other)


def test_by_a_server_that_stands_in_for_the_hub(run, image, tmp_path):
    code = f"""
        import numpy as np, lk_downstream
        from lk_downstream import sharing
        print(sharing.share({str(run)!r}, "me/insects", license="mit"))
        image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        model = lk_downstream.load("hf-hub:me/insects", device="cpu")
        print(model.predict(image, probabilities=True).probabilities.tolist())
        import timm, torch
        print(timm.create_model("hf-hub:me/insects", pretrained=True)(torch.zeros(1, 3, 64, 64)).shape)
        try:
            lk_downstream.load("hf-hub:me/nothing")
        except lk_downstream.InputError as error:
            print(error)
    """
    with hub() as server:
        names = (sharing.FOLDER, "HF_HUB_OFFLINE")
        environment = {key: value for key, value in os.environ.items() if key not in names}
        environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_none"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        address, probabilities, shape, refused = done.stdout.strip().splitlines()[-4:]
        assert address == f"{server.address}/me/insects"
        assert {"model.safetensors", "recipe.json", "config.json", "README.md"} <= set(server.models["me/insects"])
    expected = lk_downstream.load(OLD, device="cpu").predict(image, probabilities=True).probabilities
    assert json.loads(probabilities) == expected.tolist()
    assert shape == "torch.Size([1, 3])"
    assert "hf-hub:me/nothing cannot be fetched" in refused


def test_what_is_shared_is_data(run, folder_as_hub):
    sharing.share(run, "me/insects")
    folder = folder_as_hub / "me" / "insects"
    good = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    bad = [
        ({**good, "recipe": {**good["recipe"], "class_path": "os.system"}}, "os.system"),
        ({**good, "format": checkpoint_format.VERSION + 1}, "update it"),
        ({**good, "prefix": "optimizer."}, "damaged"),
        ({**good, "recipe": None}, "no recipe"),
        ([], "damaged"),
    ]
    for entries, words in bad:
        (folder / "recipe.json").write_text(json.dumps(entries), encoding="utf-8")
        with pytest.raises(InputError, match=words):
            lk_downstream.load("hf-hub:me/insects", device="cpu")
    (folder / "recipe.json").write_text(json.dumps(good), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="does not fit its weights"):
        lk_downstream.load(folder, device="cpu")
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        lk_downstream.load(folder, device="cpu")


@pytest.mark.parametrize(
    "name", ["insects", "../insects", "me/../x", "me/in sects", "a/b/c", "/me/x", "me/", "me/x.git"]
)
def test_names_are_names(name):
    with pytest.raises(InputError, match="no name on the Hub"):
        sharing.fetch(name)


def test_an_unknown_name_and_a_full_folder(run, tmp_path):
    with pytest.raises(InputError, match="there is no me/none"):
        lk_downstream.load("hf-hub:me/none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        sharing.share(run, "me/insects", output=tmp_path / "full")
    assert commands.run("push", [str(run), "me/insects", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "recipe.json").is_file()


def test_formats_of_checkpoints(tmp_path):
    assert list(checkpoint_format.CHANGES) == list(range(1, checkpoint_format.VERSION + 1))
    content = torch.load(OLD, weights_only=True)
    assert "format" not in content
    assert checkpoint_format.check_format(content, "old") == 1
    assert len(load_task(OLD).classes) == 3
    for number, words in (
        (checkpoint_format.VERSION + 1, "update it"),
        ("2", "no version"),
        (0, "no version"),
        (True, "no"),
    ):
        torch.save({**content, "format": number}, tmp_path / "other.ckpt")
        with pytest.raises(InputError, match=words):
            load_task(tmp_path / "other.ckpt")
    torch.save({**content, "format": checkpoint_format.VERSION}, tmp_path / "new.ckpt")
    assert load_task(tmp_path / "new.ckpt").classes == load_task(OLD).classes
