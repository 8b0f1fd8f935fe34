"""Whatever the logger, a run has one folder and touches nothing outside; metrics reach the loggers that take them."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from lightning.pytorch.loggers.logger import Logger

from lk_downstream.cli import main

DEMO = str(Path(__file__).parents[2] / "configs" / "demo_segmentation.yaml")
SMALL = [
    *("--config", DEMO, "--data.synthetic", "{train: 4, val: 1, size: [32, 32]}", "--data.workers", "0"),
    *("--data.batch_size", "2", "--data.crop_size", "32", "--data.scale", "[32, 32]"),
    *("--model.backbone.name", "test_replknet", "--trainer.log_every_n_steps", "1"),
    *("--trainer.max_steps", "2", "--trainer.val_check_interval", "1000", "--trainer.num_sanity_val_steps", "0"),
]
NAMES = {"config.yaml", "metrics.json", "metrics.csv", "predictions.png", "curves.png", "checkpoints"}


class OwnFolder(Logger):
    """Has a folder of its own, as the loggers of W&B and MLflow, and takes images as the first."""

    made: list["OwnFolder"] = []

    def __init__(self, save_dir: str = "."):
        super().__init__()
        self.folder, self.images, self.name, self.version, self.experiment = save_dir, [], "own", 0, self
        self.made.append(self)

    name = version = experiment = None

    @property
    def save_dir(self):
        return self.folder

    def log_image(self, key, images):
        self.images.append((key, images[0].shape[-1]))

    def log_metrics(self, metrics, step=None):
        (Path(self.folder) / "own.txt").write_text(json.dumps(metrics), encoding="utf-8")

    def log_hyperparams(self, params):
        pass


def sums(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and {"runs", "data"}.isdisjoint(path.parts))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger", "OwnFolder", "WandbLogger", "MLFlowLogger"])
def test_one_folder(kind, tmp_path, monkeypatch):
    options = {
        "CSVLogger": ["--trainer.logger.save_dir", "."],
        "TensorBoardLogger": ["--trainer.logger.save_dir", "."],
        "WandbLogger": ["--trainer.logger.offline", "true"],
    }
    needed = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
    if kind in needed:
        pytest.importorskip(needed[kind])
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # of which MLflow 3 wants to know
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "metrics.json", "predictions.png"):
        Path(name).write_text("kept", encoding="utf-8")
    before = sums(tmp_path)
    logger = f"{__name__}.{kind}" if kind == "OwnFolder" else kind
    monkeypatch.setattr(OwnFolder, "made", [])
    cli = main("fit", [*SMALL, "--trainer.logger", logger, *options.get(kind, [])])
    run = Path(cli.trainer.log_dir)
    assert os.fspath(run) == os.path.join("runs", "demo_segmentation", "run_0")
    assert {path.name for path in run.iterdir()} >= NAMES
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best_step=2.ckpt", "last.ckpt"}
    assert sums(tmp_path) == before
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["last"]["step"] == 2  # no interval was over
    if kind == "OwnFolder":
        assert (run / "own.txt").exists()
        assert OwnFolder.made[-1].images == [("val/predictions", 3), ("val/confusion_matrix", 3)]
    elif kind in needed:
        assert list((run / {"WandbLogger": "wandb"}.get(kind, "mlruns")).rglob("*.png"))
