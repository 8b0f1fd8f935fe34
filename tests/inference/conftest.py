"""Small models of each task as a training leaves them, and what ``lk-downstream predict`` writes by them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lk_downstream.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = ("--trainer.max_steps", "4", "--trainer.val_check_interval", "4", "--data.workers", "0")
# task: options of a short run, and the images that it is tried on
RUNS = {
    "segmentation": (
        ("demo_segmentation", "--data.synthetic", "{train: 8, val: 4, size: [64, 80]}", "--data.batch_size", "4"),
        ("--data.crop_size", "64", "--data.scale", "[80, 64]"),
        "data/demo_cityscapes/leftImg8bit/val",
    ),
    "detection": (
        ("demo_detection", "--data.synthetic", "{train: 8, val: 4, size: [96, 128]}", "--data.batch_size", "4"),
        ("--data.scale", "[160, 128]"),
        "data/demo_coco/val2017",
    ),
    "classification": (
        ("demo_classification", "--data.synthetic", "{train: 16, val: 6, size: [80, 96]}", "--data.batch_size", "8"),
        ("--data.size", "48", "--data.crop", "0.8"),
        "data/demo_imagenet/val",
    ),
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory, draw_nothing):
    """Folders of finished runs by task: ``run``, ``images`` and ``predicted``, what the command line has written."""
    found, before = {}, Path.cwd()
    folder = tmp_path_factory.mktemp("trained")
    os.chdir(folder)
    patches = pytest.MonkeyPatch()
    draw_nothing(patches)
    patches.setattr(
        "lk_downstream.callbacks.detection_grid.detection_grid", lambda *args: np.zeros((2, 2, 3), np.uint8)
    )
    try:
        for task, ((name, *options), more, images) in RUNS.items():
            config = ["--config", str(CONFIGS / f"{name}.yaml")]
            main("fit", [*config, *options, *more, *SHORT])
            found[task] = _predicted(folder, Path("runs") / name, images)
        write_table(Path("tags"))
        options = ("--model", "MultiLabelClassification", "--data.dataset", "ClassTable", "--data.dataset.root", "tags")
        tags = (
            "--data.dataset.separator",
            "|",
            "--data.batch_size",
            "4",
            "--data.size",
            "48",
            "--data.synthetic",
            "null",
        )
        model = ("--model.backbone.name", "test_convnext", "--trainer.accelerator", "cpu")
        main("fit", ["--config", str(CONFIGS / "convnext_atto_folder.yaml"), *options, *tags, *model, *SHORT])
        found["multilabel"] = _predicted(folder, Path("runs/convnext_atto_folder"), "tags")
    finally:
        patches.undo()
        os.chdir(before)
    return found


def write_table(root):
    """Images with several labels."""
    root.mkdir()
    generator = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        rows = ["file,label"]
        for index in range(number):
            Image.fromarray(generator.integers(0, 256, (60, 70, 3), np.uint8)).save(root / f"{split}_{index}.png")
            rows.append(f"{split}_{index}.png,{('red', 'blue|red', 'green', '')[index % 4]}")
        (root / f"{split}.csv").write_text("\n".join(rows), encoding="utf-8")


def _predicted(folder, runs, images):
    run = runs / "run_0"
    trained = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]
    cli = main("predict", [*trained, "--data.predict", images, "--data.val_batch_size", "1"])
    predicted = Path(cli.trainer.log_dir)
    return {"run": folder / run, "images": folder / images, "predicted": folder / predicted}


def listed(path):
    return json.loads(path.read_text(encoding="utf-8"))
