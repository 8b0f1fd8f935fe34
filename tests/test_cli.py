"""The command line as a user meets it: the demo, its files, resuming, evaluating, swapping, mistakes."""

import csv
import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lk_downstream.cli import CLI, main, next_version
from lk_downstream.data import DataModule
from lk_downstream.tasks import Segmentation, load_task

ROOT = Path(__file__).parents[1]
DEMO = str(ROOT / "configs" / "demo_segmentation.yaml")
SMALL = [
    *("--config", DEMO),
    *("--data.synthetic", "{train: 12, val: 5, size: [64, 80]}"),
    *("--data.batch_size", "4", "--data.crop_size", "64", "--data.scale", "[80, 64]", "--data.workers", "0"),
    *("--trainer.max_steps", "4", "--trainer.val_check_interval", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one finished small run."""
    path = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(path)
    try:
        main("fit", SMALL)
        yield path
    finally:
        os.chdir(before)


@pytest.fixture
def run(folder):
    return folder / "runs" / "demo_segmentation" / "run_0"


def sentence(capsys, subcommand, args):
    with pytest.raises(SystemExit) as stop:
        main(subcommand, args)
    text = str(stop.value)
    assert text.startswith("error: ")
    assert "Traceback" not in text + capsys.readouterr().err
    return text


def test_a_run_leaves_its_files(folder, run):
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.json", "metrics.csv", "predictions.png", "checkpoints"} <= names
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints[-1] == "last.ckpt"
    assert re.fullmatch(r"best_step=[24].ckpt", checkpoints[0])
    assert len(checkpoints) == 2
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["last"]["step"] == 4
    assert set(metrics["best"]["summary"]) == {"mIoU", "mAcc", "aAcc", "mF1", "mPrecision"}
    assert len(metrics["best"]["classes"]["IoU"]) == 19
    assert not [path for path in folder.rglob("*") if ".part" in path.name or ".tmp" in path.name]


def test_validation_counts_optimizer_steps_under_accumulation(folder):
    cli = main("fit", [*SMALL, "--trainer.accumulate_grad_batches", "2"])
    with open(Path(cli.trainer.log_dir) / "metrics.csv", encoding="utf-8") as file:
        steps = [int(row["step"]) + 1 for row in csv.DictReader(file) if row["val/mIoU"]]
    assert steps == [2, 4]
    assert cli.datamodule.device_batch_size == 2
    saved = yaml.safe_load((Path(cli.trainer.log_dir) / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["val_check_interval"] == 2


def test_the_saved_config_evaluates_the_checkpoint(run, capsys):
    expected = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["last"]["summary"]
    args = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    cli = main("validate", args)
    assert cli.model.results["summary"] == pytest.approx(expected, rel=1e-6)
    assert "mIoU" in capsys.readouterr().out
    again = main("validate", ["--config", DEMO, *SMALL[2:10], "--model.weights", args[-1]])
    assert again.model.results["summary"] == pytest.approx(expected, rel=1e-6)


def test_another_split_is_evaluated_by_one_option(run, capsys):
    args = ["--config", DEMO, *SMALL[2:10], "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    cli = main("validate", [*args, "--data.val_fraction", "0.5", "--split", "train"])  # 12 images, none of them divided
    assert len(cli.datamodule.val_set) == 12
    saved = yaml.safe_load((Path(cli.trainer.log_dir) / "config.yaml").read_text(encoding="utf-8"))
    assert saved["data"]["init_args"]["val_split"] == "train"
    text = sentence(capsys, "validate", [*args, "--split", "tets"])
    assert text == "error: Cityscapes has no split 'tets'; did you mean 'test'?"


def test_a_stopped_run_goes_on(folder, run):
    args = [*SMALL, "--trainer.max_steps", "6", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    cli = main("fit", args)
    assert cli.trainer.global_step == 6
    rates = [group["lr"] for group in cli.trainer.optimizers[0].param_groups]
    assert rates == [0.0, 0.0]


def test_a_checkpoint_alone_gives_the_task(run):
    task = load_task(run / "checkpoints" / "last.ckpt")
    assert isinstance(task, Segmentation)
    assert not task.training
    assert task.classes[0] == "road"
    prediction = task.predict(torch.randint(0, 256, (1, 3, 50, 70)).to(torch.uint8))
    assert prediction.shape == (1, 50, 70)
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)  # plain data and tensors, nothing to execute


@pytest.mark.parametrize("name", ["test_replknet", "test_slak", "resnet18"])
def test_the_backbone_is_swapped_in_one_word(folder, name):
    cli = main("fit", [*SMALL, "--trainer.max_steps", "2", "--model.backbone.name", name])
    assert cli.model.backbone.name == name
    assert cli.trainer.global_step == 2


def test_another_head_bf16_and_no_auxiliary_head(folder):
    head = ["--model.head", "lk_downstream.heads.DecodeHead", "--model.head.type", "SegformerHead"]
    options = ["--model.auxiliary_head", "null", "--trainer.precision", "bf16-mixed", "--trainer.max_steps", "2"]
    cli = main("fit", [*SMALL, *head, *options, "--trainer.gradient_clip_val", "1.0"])
    assert type(cli.model.head).__name__ == "SegformerHead"
    assert cli.model.auxiliary_head is None


def test_the_failure_of_another_process(monkeypatch):
    def broken(*args):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:24238")

    monkeypatch.setattr("lk_downstream.cli.CLI", broken)
    with pytest.raises(SystemExit, match="another process of this run has failed"):
        main("fit", [])


def test_a_full_disk(folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileOpener.write", full, raising=False)
    assert "No space left on device: make room" in sentence(capsys, "fit", [*SMALL, "--trainer.max_steps", "1"])


def test_evaluation_needs_weights(folder, capsys):
    assert "evaluation needs a trained model: give --ckpt_path FILE" in sentence(capsys, "validate", SMALL)


def test_the_data_module_is_made_once(folder, monkeypatch):
    """And with it the classes are read once, which takes minutes where there are many files or annotations."""
    made, init = [], DataModule.__init__

    @functools.wraps(init)
    def counted(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DataModule, "__init__", counted)
    cli = main("fit", [*SMALL, "--trainer.max_steps", "0"])
    assert made == [cli.datamodule]
    assert cli.model.classes == cli.datamodule.classes
    assert cli.trainer.datamodule is cli.datamodule
    config = yaml.safe_load((Path(cli.trainer.log_dir) / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["class_path"].endswith("SegmentationData")


def test_null_reaches_any_setting(folder):
    options = ["--model.inference", "Slide", "--model.inference.crop", "48", "--model.inference.scale", "null"]
    cli = main("fit", [*SMALL, *options, "--model.groups.layer_decay", "null", "--trainer.max_steps", "0"])
    assert cli.model.inference.scale is None
    assert cli.model.groups.layer_decay is None


def test_a_run_without_loggers_has_its_folder(folder, capsys):
    cli = main("fit", [*SMALL, "--trainer.logger", "false", "--trainer.max_steps", "2"])
    names = {path.name for path in Path(cli.trainer.log_dir).iterdir()}
    assert {"config.yaml", "metrics.json", "checkpoints"} <= names
    assert Path(cli.trainer.log_dir).parent == Path("runs") / "demo_segmentation"


def test_what_a_user_keeps_in_a_folder_survives_a_run_that_cannot_start(folder, tmp_path, capsys):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").touch()
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path), "--trainer.logger.name", ""]
    broken = ["--trainer.logger.version", "kept", "--data.batch_size", "5", "--trainer.accumulate_grad_batches", "2"]
    assert "does not divide" in sentence(capsys, "fit", [*SMALL, *logger, *broken])
    assert (tmp_path / "kept" / "notes.txt").exists()


def test_the_config_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main("fit", [*SMALL, "--model.backbone.name", "slak_tiny", "--print_config"])
    assert not stop.value.code
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["backbone"]["init_args"]["name"] == "slak_tiny"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.backbone.name", "slak_tny"], "slak_tiny"),
        (["--model.backbone.nme", "x"], "create_backbone has no option 'nme'; did you mean 'name'"),
        (["--model.head.channls", "3"], "UPerHead has no option 'channls'; did you mean 'channels'"),
        (["--model.head", "lk_downstream.heads.UperHead"], "did you mean 'UPerHead'"),
        (["--modl.head.channels", "3"], "no option --modl.head.channels; did you mean 'model'"),
        (["--data.batch_size", "x"], "--data.batch_size"),
        (["--data.batch_size", "5", "--trainer.accumulate_grad_batches", "2"], "does not divide by 1 devices x 2"),
        (["--data.dataset.root", "nowhere", "--data.synthetic", "null"], "leftImg8bit/train"),
        (["--model.weights", "nothing.pth"], "nothing.pth"),
        (["--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (["--ckpt_path", "last"], "there is no file last"),  # and not a run from the start
        (["--model.optimizer", "AdamWW"], "did you mean 'AdamW'"),
        (["--model.inference", "Slid"], "did you mean 'Slide'"),
        (["--model.head", "UperHead"], "did you mean 'lk_downstream.heads.UPerHead'"),
        (["--model.optimizer.lr", "-1"], "the optimizer refuses its settings: Invalid learning rate"),
        (["--model.optimizer.lr", "1e20", "--model.schedule", "null"], "after step 2 the weights are no longer finite"),
        (["--trainer.accelerator", "gpuu"], "finds no such device here"),
        (["--trainer.callbacks+=DynamicSparsity"] * 2, "more than one stateful callback of type `DynamicSparsity`"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches is 0: it must be at least 1"),
        (["--trainer.val_check_interval", "0"], "trainer.val_check_interval is 0: it must be at least 1"),
        (["--trainer.default_root_dir", DEMO], "--trainer.default_root_dir: cannot make"),
        (["--checkpoint.every_n_steps", "0"], "checkpoint.every_n_steps is 0: it must be at least 1"),
        (["--data.batch_size", "1"], "batch norm needs more than one image"),
        (["--checkpoint.monitor", "val/miou"], "the task has no metric 'val/miou'; did you mean 'val/mIoU'?"),
        (["--model.backbone.drop_path_rate", "1.5"], "drop_path_rate is 1.5"),
    ],
)
def test_a_mistake_gets_a_sentence(folder, capsys, args, words):
    assert words in sentence(capsys, "fit", [*SMALL, *args])


def test_weights_of_another_architecture_are_refused(run, capsys):
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    text = sentence(capsys, "fit", [*SMALL, "--model.backbone.name", "test_slak", "--model.weights", checkpoint])
    assert "test_slak" in text


def test_nothing_is_written_for_a_run_that_cannot_start(folder, capsys):
    before = sorted(path.name for path in (folder / "runs" / "demo_segmentation").iterdir())
    sentence(capsys, "fit", [*SMALL, "--model.backbone.name", "slak_tny"])
    sentence(capsys, "fit", [*SMALL, "--data.dataset.root", "nowhere", "--data.synthetic", "null"])
    assert sorted(path.name for path in (folder / "runs" / "demo_segmentation").iterdir()) == before


def test_the_tool_exits_without_a_stack_trace(folder):
    command = [sys.executable, str(ROOT / "tools" / "fit.py"), *SMALL, "--model.backbone.name", "slak_tny"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_two_runs_that_start_together_have_a_folder_each(tmp_path, monkeypatch):
    free = iter(["run_0", "run_0", "run_1"])  # as both see it
    monkeypatch.setattr("lk_downstream.cli.next_version", lambda folder, kind: next(free))
    for name in ("run_0", "run_1"):
        cli = object.__new__(CLI)
        cli.subcommand, cli.words = "fit", []
        assert cli._new_folder(tmp_path) == name


def test_next_version(tmp_path):
    assert next_version(tmp_path, "run") == "run_0"
    (tmp_path / "run_0").mkdir()
    assert next_version(tmp_path, "run") == "run_1"
