"""A run that is resumed with another config is, from the step of the checkpoint on, what that config says."""

import json
from pathlib import Path

import lightning as L
import pytest

from lk_downstream.cli import main

pytestmark = pytest.mark.usefixtures("without_plots")
DEMO = Path(__file__).parents[1] / "configs" / "demo_classification.yaml"
BASE = {
    "config": str(DEMO),
    "data.synthetic": "{train: 27, val: 6, size: [32, 32]}",
    "data.size": "32",
    "data.workers": "0",
    "data.batch_size": "8",
    "model.schedule.warmup_steps": "2",
    "trainer.max_steps": "8",
    "trainer.val_check_interval": "4",
    "trainer.callbacks": "[]",
    "checkpoint.every_n_steps": "1",
}


class Diary(L.Callback):
    """What each optimizer step saw, and after which steps a validation came."""

    def __init__(self):
        self.steps, self.validations = {}, []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        rates = [(group["lr"], group["weight_decay"]) for group in trainer.optimizers[0].param_groups]
        step = self.steps.setdefault(trainer.global_step, {"rates": rates, "names": []})
        step["names"] += batch["name"]
        assert step["rates"] == rates

    def on_validation_end(self, trainer, task):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)


def fit(folder, monkeypatch, changes, checkpoint=None):
    options = {**BASE, "trainer.default_root_dir": str(folder), **changes}
    if checkpoint:
        options["ckpt_path"] = str(checkpoint)
    diary = Diary()
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", lambda: diary)
        main("fit", [word for name, value in options.items() if value is not None for word in (f"--{name}", value)])
    return diary


CHANGES = {
    "longer, another schedule": {
        "trainer.max_steps": "14",
        "model.schedule": "{class_path: lk_downstream.optim.Poly, init_args: {warmup_steps: 7}}",
    },
    "shorter, other options": {
        "trainer.max_steps": "7",
        "model.optimizer.lr": "0.02",
        "model.groups.no_decay": "norms",
    },
    "smaller batch": {"data.batch_size": "4", "trainer.max_steps": "16"},
    "larger batch, accumulated": {"data.batch_size": "12", "trainer.accumulate_grad_batches": "4"},
    "validation by a share of an epoch": {
        "trainer.val_check_interval": "0.4",
        "trainer.accumulate_grad_batches": "2",
        "trainer.max_steps": "-1",
        "trainer.max_epochs": "4",
    },
    "short epochs": {"trainer.limit_train_batches": "4", "trainer.accumulate_grad_batches": "2"},
    "other data": {"data.synthetic": "{train: 40, val: 6, size: [32, 32]}", "data.dataset.root": "other"},
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The checkpoint of a run that has ended after 5 steps, an epoch and two thirds."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(folder, patch, {"trainer.max_steps": "5"})
    return next(folder.glob("*/run_0/checkpoints/last.ckpt"))


@pytest.mark.parametrize("change", CHANGES)
def test_from_the_step_on_it_is_what_its_own_config_says(change, stopped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = fit(tmp_path, monkeypatch, CHANGES[change])
    resumed = fit(tmp_path, monkeypatch, CHANGES[change], stopped)
    assert resumed.steps == {step: seen for step, seen in whole.steps.items() if step >= 5}
    assert resumed.steps
    assert resumed.validations == [step for step in whole.validations if step > 5]


@pytest.mark.parametrize("limit", [{"trainer.max_steps": "5"}, {"trainer.max_steps": "-1", "trainer.max_epochs": "1"}])
def test_a_run_at_its_end_says_so(limit, stopped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"the checkpoint is of step 5, and trainer\.max_\w+ \d ends the run there"):
        fit(tmp_path, monkeypatch, limit, stopped)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model.optimizer": "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}"}, "trained with AdamW, whose state"),
        ({"trainer.limit_train_batches": "3", "trainer.accumulate_grad_batches": "2"}, "make it a multiple of 2"),
        (
            {"trainer.callbacks": "[{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}]"},
            "GradientAccumulationScheduler would change the batch",
        ),
    ],
)
def test_what_has_no_meaning_gets_a_sentence(change, sentence, stopped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        fit(tmp_path, monkeypatch, change, stopped)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_step_sees_the_promised_batch(accumulate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "data.synthetic": "{train: 10, val: 6, size: [32, 32]}",
        "trainer.accumulate_grad_batches": str(accumulate),
        "trainer.val_check_interval": "2",
    }
    diary = fit(tmp_path, monkeypatch, changes)
    assert [len(seen["names"]) for seen in diary.steps.values()] == [8] * 8
    assert diary.validations == [2, 4, 6, 8]


def report(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["best"]


def test_the_best_of_a_resumed_run_is_that_of_the_whole_run_with_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "demo_classification"
    fit(tmp_path, monkeypatch, {"trainer.max_steps": "4", "model.optimizer.lr": "0.002"})
    best, last = report(first / "run_0"), first / "run_0" / "checkpoints" / "last.ckpt"
    still = {"model.optimizer.lr": "0.0", "trainer.val_check_interval": "1", "trainer.max_steps": "6"}
    fit(tmp_path, monkeypatch, still, last)  # equal metrics are no better ones
    assert report(first / "run_1") == best
    assert "checkpoint   demo_classification/run_0/checkpoints/best_step=4.ckpt" in capsys.readouterr().out
    fit(tmp_path, monkeypatch, {**still, "checkpoint.monitor": "val/ECE", "checkpoint.mode": "min"}, last)
    assert report(first / "run_2")["step"] == 5  # nothing is known of the smallest before
    (first / "run_0" / "checkpoints" / "best_step=4.ckpt").unlink()
    fit(tmp_path, monkeypatch, still, last)
    assert report(first / "run_3")["step"] == 5
