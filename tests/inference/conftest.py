"""Small models of each task as a training leaves them, and what ``lk-downstream predict`` writes by them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lk_downstream.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
SHORT = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--data.workers=0", "--trainer.accelerator=cpu"]
# task: config, options of a short run, and the images that it is tried on
RUNS = {
    "segmentation": (
        "demo_segmentation",
        "--data.synthetic|{train: 8, val: 4, size: [64, 80]}|--data.batch_size|4|--data.crop_size|64"
        "|--data.scale|[80, 64]",
        "data/demo_cityscapes/leftImg8bit/val",
    ),
    "detection": (
        "demo_detection",
        "--data.synthetic|{train: 8, val: 4, size: [96, 128]}|--data.batch_size|4|--data.scale|[160, 128]",
        "data/demo_coco/val2017",
    ),
    "classification": (
        "demo_classification",
        "--data.synthetic|{train: 16, val: 6, size: [80, 96]}|--data.batch_size|8|--data.size|48|--data.crop|0.8",
        "data/demo_imagenet/val",
    ),
    "multilabel": (
        "convnext_atto_folder",
        "--model|MultiLabelClassification|--data.dataset|ClassTable|--data.dataset.root|tags|--data.dataset.separator|;"
        "|--data.batch_size|4|--data.size|48|--data.synthetic|null|--model.backbone.name|test_convnext",
        "tags",
    ),
}


class Trained(dict):
    """Folders of a finished run by its task, made when they are asked for: ``run``, ``images``, and ``predicted``, what
    the command line has written.
    """

    def __init__(self, folder, patch):
        self.folder, self.patch = folder, patch

    def __missing__(self, task):
        name, options, images = RUNS[task]
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            if task == "multilabel":
                write_table(Path("tags"))
            with pytest.MonkeyPatch.context() as patches:
                self.patch(patches)
                grid = "lk_downstream.callbacks.detection_grid.detection_grid"
                patches.setattr(grid, lambda *args: np.zeros((2, 2, 3), np.uint8))
                main("fit", ["--config", str(CONFIGS / f"{name}.yaml"), *options.split("|"), *SHORT])
                run = Path("runs") / name / "run_0"
                of_run = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]
                cli = main("predict", [*of_run, "--data.predict", images, "--data.val_batch_size", "1"])
        finally:
            os.chdir(before)
        paths = {"run": run, "images": images, "predicted": cli.trainer.log_dir}
        self[task] = {kind: self.folder / path for kind, path in paths.items()}
        return self[task]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, draw_nothing):
    """See :class:`Trained`."""
    return Trained(tmp_path_factory.mktemp("trained"), draw_nothing)


def write_table(root):
    """Images with several labels."""
    root.mkdir()
    generator = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        rows = ["file;label"]
        for index in range(number):
            Image.fromarray(generator.integers(0, 256, (60, 70, 3), np.uint8)).save(root / f"{split}_{index}.png")
            rows.append(f"{split}_{index}.png,{('red', 'blue;red', 'green', '')[index % 4]}")
        (root / f"{split}.csv").write_text("\n".join(rows).replace("file;", "file,"), encoding="utf-8")
