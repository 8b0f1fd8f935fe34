"""A run that was killed and resumed is the run that was not: to the last bit, whatever was drawn at random."""

from pathlib import Path

import lightning as L
import pytest
import torch

from lk_downstream.cli import main

pytestmark = pytest.mark.usefixtures("without_plots")
CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = {
    "classification": (
        *("--config", str(CONFIGS / "demo_classification.yaml"), "--model.backbone.name", "test_slak"),
        *("--model.backbone.drop_path_rate", "0.2", "--model.mixup", "0.8", "--model.erasing", "0.5"),
        *("--data.synthetic", "{train: 40, val: 6, size: [40, 48]}", "--data.size", "32", "--data.batch_size", "8"),
        *("--data.auto_augment", "rand-m9-mstd0.5-inc1"),
        *("--trainer.callbacks+=DynamicSparsity", "--trainer.callbacks.update_every=3"),
        *("--trainer.callbacks+=AveragedWeights", "--trainer.callbacks.decay=0.5"),
    ),
    "segmentation": (
        *("--config", str(CONFIGS / "demo_segmentation.yaml"), "--model.backbone.drop_path_rate", "0.2"),
        *("--data.synthetic", "{train: 20, val: 2, size: [48, 64]}", "--data.batch_size", "4"),
        *("--data.crop_size", "32", "--data.scale", "[64, 48]", "--trainer.accumulate_grad_batches", "2"),
    ),
    "detection": (
        *("--config", str(CONFIGS / "demo_detection.yaml"), "--data.scale", "[96, 96]"),
        *("--data.synthetic", "{train: 20, val: 2, size: [64, 96]}", "--data.batch_size", "4"),
    ),
}


class Killed(L.Callback):
    """Ends the run in the middle of things."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, task, *args):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


def fit(folder, options, *more):
    common = ("--trainer.max_steps", "12", "--trainer.val_check_interval", "12", "--data.workers", "1")
    # By a rule, not by what is fastest at the moment, is chosen how large kernels are computed.
    common += ("--trainer.deterministic", "true")
    main(
        "fit", [*options, *common, "--trainer.default_root_dir", str(folder), "--checkpoint.every_n_steps", "1", *more]
    )


# 5 steps make an epoch; after 5 it ends, and 8 is in the middle of the next.
@pytest.mark.parametrize(("kind", "step"), [("classification", 5), ("segmentation", 8), ("detection", 8)])
def test_a_killed_run_ends_as_one_that_was_not(kind, step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole"
    fit(whole, RUNS[kind])
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", lambda: Killed(step + 1))
        with pytest.raises(RuntimeError, match="killed"):
            fit(tmp_path / "parts", RUNS[kind])
    (stopped,) = (tmp_path / "parts").glob("*/run_0/checkpoints/last.ckpt")
    assert torch.load(stopped, weights_only=True)["global_step"] == step
    fit(tmp_path / "parts", RUNS[kind], "--ckpt_path", str(stopped))
    first, second = (
        torch.load(next(path.glob(f"*/{run}/checkpoints/last.ckpt")), weights_only=True)
        for path, run in ((whole, "run_0"), (tmp_path / "parts", "run_1"))
    )
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
