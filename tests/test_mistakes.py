"""Mistakes on the command line, each answered in a sentence with its remedy."""

import re
from pathlib import Path

import pytest
import torch

from lk_downstream.commands import run

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIONS = (
    *("--config", str(CONFIGS / "demo_segmentation.yaml"), "--data.synthetic", "{train: 4, val: 2, size: [48, 64]}"),
    *("--data.crop_size", "32", "--data.scale", "[64, 48]", "--data.workers", "0", "--data.batch_size", "4"),
    *("--trainer.max_steps", "1", "--model.backbone.weights", "null"),
)
# Words after those of OPTIONS -> what the answer has to say.
MISTAKES = {
    "--trainer.deterministic yess": r"--trainer\.deterministic is 'yess': it must be one of true, false, warn",
    "--model.optimizer Adamw": r"no class 'Adamw'; did you mean 'AdamW'\?",
    "--model.optimizer.lr 1e-3x": r"--model\.optimizer\.lr is '1e-3x': it must be a number",
    "--model.optimizer 1e-3x": r"--model\.optimizer is '1e-3x': it takes the name of a class, and a number is one of",
    "--lr 0.1": r"no option --lr; here it is --model\.optimizer\.lr",
    "--max_steps=3": r"no option --max_steps; did you mean 'trainer\.max_steps'\?",
    "--nonsense 3": r"no option --nonsense; --model\.help, --data\.help and --trainer\.help list them",
    "--data.crop_size 96 128": r"'128' belongs to no option: several values are one word in brackets, as --data\.scale",
    "--data.scale [64]": r"--data\.scale is \[64\]: it takes 2 values, in brackets",
    "--data.batch_size four": r"--data\.batch_size is 'four': it must be a whole number",
    "--trainer.max_steps 1e3x": r"--trainer\.max_steps is '1e3x': it must be a whole number",
    "--trainer.logger WandbLoger": r"no class 'WandbLoger'; did you mean 'WandbLogger'",
    "--model.loss PixelCrossEntropy --model.loss.class_weight [1,2]": "2 class weights, but there are 19 classes",
    "--model.weights text.pth": r"text\.pth is a text, which begins '404: Not Found', not weights: download the file",
    "--ckpt_path text.pth": r"text\.pth is a text, which begins '404: Not Found'",
    "--trainer.callbacks+=LearningRateFinder": r"LearningRateFinder knows no parameter groups: take .*FindLearningRate",
    "--trainer.callbacks+=BatchSizeFinder": r"BatchSizeFinder would change data\.batch_size.*accumulate_grad_batches",
}


def answer(words, capsys):
    """What the command says of some words."""
    try:
        assert run("fit", words) == 1
        return capsys.readouterr().err
    except SystemExit as stopped:
        return str(stopped.code)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("404: Not Found\n", encoding="utf-8")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_answer_has_the_remedy(mistake, capsys):
    said = answer([*OPTIONS, *mistake.split()], capsys)
    assert said.startswith("error: ")
    assert re.search(MISTAKES[mistake], said), said
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["demo_segmentation", str(CONFIGS / "demo_segmentation.yaml")])
def test_a_config_without_its_option(name, capsys):
    assert f"{name} stands alone: a file of settings, or a config's name, is --config {name}" in answer([name], capsys)


def test_a_config_of_mmsegmentation(capsys):
    Path("upernet.py").write_text("_base_ = ['a.py']\nmodel = dict(type='EncoderDecoder')\n", encoding="utf-8")
    said = answer(["--config", "upernet.py"], capsys)
    assert "upernet.py is a program, as mmsegmentation's and mmdetection's configs are" in said
    assert "--model.weights FILE" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
@pytest.mark.parametrize("name", ["gpu", "cuda", "gpus"])
def test_a_device_that_is_not_there(name, capsys):
    said = answer([*OPTIONS, "--trainer.accelerator", name], capsys)
    assert re.search(rf"--trainer\.accelerator {name}: PyTorch .* finds no such device here, but .*cpu: leave", said)


def test_tasks_of_slurm_that_are_no_devices(monkeypatch, capsys):
    for name, value in {"JOB_ID": 7, "NTASKS": 4, "NTASKS_PER_NODE": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    said = answer([*OPTIONS, "--trainer.devices", "2", "--trainer.accelerator", "cpu"], capsys)
    assert "--ntasks-per-node" in said
    assert "let --trainer.devices be the tasks of a node" in said
