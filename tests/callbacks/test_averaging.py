"""Averaged weights against a plain reference: what is evaluated, saved, restored."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from processes import in_two_processes
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from lk_downstream.callbacks import AveragedWeights, Checkpoints
from lk_downstream.cli import main
from lk_downstream.errors import InputError
from lk_downstream.optim import Cosine
from lk_downstream.tasks import Task, load_task

ROOT = Path(__file__).parents[2]
DECAY = 0.7


class Net(nn.Module):
    """A network with batch statistics and a constant of whole numbers, such as Swin's table of relative positions."""

    mean, std, name = (0.5,) * 3, (0.5,) * 3, "net"

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("index", torch.arange(300))

    def forward(self, x):
        return self.norm(self.conv(x)).amax((2, 3))


class Tiny(Task):
    monitor = "val/score"

    def __init__(self, **options):
        torch.manual_seed(0)
        super().__init__(Net(), ("a", "b"), **options)
        self.head = nn.Linear(4, 2)
        self.seen = []

    def forward(self, images):
        return self.head(self.backbone(self.normalize(images)))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["image"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.seen.append((self.trainer.global_step, state(self)))
        return {"score": (self(batch["image"]).argmax(1) == batch["label"]).float().mean()}

    def on_validation_epoch_end(self):
        self.report({"score": float(self.trainer.global_step)}, {})


class Recorder(L.Callback):
    """Keeps the plain weights after every optimizer step, and saves checkpoints in the middle of validations."""

    def __init__(self, folder=None):
        self.steps, self.folder = {}, folder

    def on_train_start(self, trainer, task):
        self.steps[trainer.global_step] = state(task)

    def on_train_batch_end(self, trainer, task, *args):
        self.steps.setdefault(trainer.global_step, state(task))

    def on_validation_batch_end(self, trainer, task, *args):
        if self.folder and trainer.global_step:
            trainer.save_checkpoint(self.folder / f"during_{trainer.global_step}.ckpt")


def state(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


def same(one, other, exactly=True):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if exactly or not value.is_floating_point():
            assert torch.equal(value, other[name]), name
        else:
            torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-7)


def reference(steps, until):
    """The average by the formula, whole numbers as they are."""
    average = steps[0]
    for step in range(1, until + 1):
        average = {
            name: DECAY * average[name] + (1 - DECAY) * value if value.is_floating_point() else value
            for name, value in steps[step].items()
        }
    return average


def train(folder, steps, *callbacks, task=None, resume=None, accumulate=1, **checkpoint):
    """Train for some optimizer steps, six an epoch, with a validation every two."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12 * accumulate, 3, 8, 8), generator=generator).to(torch.uint8)
    samples = [{"image": image, "label": index % 2} for index, image in enumerate(images)]
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, accumulate_grad_batches=accumulate, val_check_interval=2 * accumulate,
        callbacks=[*callbacks, Checkpoints(dirpath=str(folder), save_top_k=-1, **checkpoint)], logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip
    task = task or Tiny(schedule=lambda optimizer, _: Cosine(optimizer, 20))
    trainer.fit(task, DataLoader(samples, 2), DataLoader(samples[:4], 2), ckpt_path=resume, weights_only=True)
    return task, trainer


def read(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_evaluated_and_saved_beside_the_plain_weights(tmp_path, accumulate):
    recorder, averaging = Recorder(tmp_path), AveragedWeights(DECAY)
    task, _ = train(tmp_path, 5, averaging, recorder, accumulate=accumulate)
    assert sorted(recorder.steps) == [0, 1, 2, 3, 4, 5]
    for step, seen in task.seen:  # the sanity check at 0 too
        same(seen, reference(recorder.steps, step), exactly=False)
    assert [step for step, _ in task.seen] == [0, 2, 4, 5]  # and the last
    for name, step in {"best_step=2": 2, "best_step=4": 4, "last": 5, "during_2": 2, "during_4": 4}.items():
        saved = read(tmp_path / f"{name}.ckpt")
        same(saved["state_dict"], reference(recorder.steps, step), exactly=False)
        same(saved["current_model_state"], recorder.steps[step])
    same(state(task), saved_average := read(tmp_path / "last.ckpt")["state_dict"])
    assert torch.equal(saved_average["backbone.index"], torch.arange(300))
    assert not torch.equal(saved_average["backbone.norm.running_var"], recorder.steps[5]["backbone.norm.running_var"])
    assert averaging.averages(task) == {}


def test_whole_numbers_of_a_long_average_stay():
    averaging, task = AveragedWeights(), Tiny()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    averaging.setup(trainer, task, "fit")
    averaging.on_fit_start(trainer, task)
    averaging._average_model.update_parameters(task)
    assert torch.equal(averaging.averages(task)["backbone.index"], torch.arange(300))  # torch's own gives 299 as 298


@pytest.mark.parametrize("name", ["last", "during_6"])
def test_stopped_and_resumed_is_unbroken(tmp_path, name):
    unbroken, trainer = train(tmp_path / "unbroken", 12, AveragedWeights(DECAY))
    train(tmp_path / "stopped", 6, AveragedWeights(DECAY), Recorder(tmp_path / "stopped"))
    resumed, again = train(
        tmp_path / "resumed", 12, AveragedWeights(DECAY), resume=tmp_path / "stopped" / f"{name}.ckpt"
    )
    assert again.global_step == trainer.global_step == 12
    same(state(resumed), state(unbroken))
    one, other = (read(tmp_path / folder / "last.ckpt") for folder in ("unbroken", "resumed"))
    for part in ("state_dict", "current_model_state", "averaging_state"):
        same(one[part], other[part])
    moments = [saved["optimizer_states"][0]["state"][0] for saved in (one, other)]
    same(*moments)


def test_weights_to_start_from_are_the_first_average(tmp_path):
    other = Tiny()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    torch.save(other.state_dict(), tmp_path / "start.pth")
    recorder = Recorder()
    task, _ = train(tmp_path, 2, AveragedWeights(DECAY), recorder, task=Tiny(weights=str(tmp_path / "start.pth")))
    same(task.seen[0][1], state(other))
    same(state(task), reference(recorder.steps, 2), exactly=False)


def test_resuming_without_and_with_averaging(tmp_path):
    train(tmp_path / "averaged", 6, AveragedWeights(DECAY))
    recorder = Recorder()
    train(tmp_path / "plain", 7, recorder, resume=tmp_path / "averaged" / "last.ckpt")
    same(recorder.steps[6], read(tmp_path / "averaged" / "last.ckpt")["current_model_state"])
    plain = read(tmp_path / "plain" / "last.ckpt")
    assert "current_model_state" not in plain
    train(tmp_path / "again", 8, AveragedWeights(DECAY), resume=tmp_path / "plain" / "last.ckpt")
    saved = read(tmp_path / "again" / "last.ckpt")
    for name, average in saved["state_dict"].items():
        if average.is_floating_point():
            expected = DECAY * plain["state_dict"][name] + (1 - DECAY) * saved["current_model_state"][name]
            torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-7)


def test_a_checkpoint_of_weights_alone_holds_the_average(tmp_path):
    task, _ = train(tmp_path, 3, AveragedWeights(DECAY), save_weights_only=True)
    saved = read(tmp_path / "last.ckpt")
    same(saved["state_dict"], state(task))
    assert "current_model_state" not in saved


def test_a_validation_that_fails_leaves_the_plain_weights(tmp_path):
    class Stop(L.Callback):
        def on_validation_batch_end(self, trainer, task, *args):
            if trainer.global_step:
                raise ZeroDivisionError

    recorder, task = Recorder(), Tiny()
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, 5, AveragedWeights(DECAY), recorder, Stop(), task=task)
    same(state(task), recorder.steps[2])


def test_a_run_that_is_too_short_for_its_decay_says_so(tmp_path, capsys):
    train(tmp_path, 2, AveragedWeights(DECAY))
    said = capsys.readouterr().out
    assert "after the 2 steps of this run 49 % of the average are the weights" in " ".join(said.split())
    train(tmp_path, 10, AveragedWeights(DECAY))
    assert "AveragedWeights" not in capsys.readouterr().out  # 3 %


def test_what_cannot_be_averaged(tmp_path):
    with pytest.raises(InputError, match=r"decay has to be .* not 1.5"):
        AveragedWeights(1.5)
    with pytest.raises(InputError, match="bf16-mixed"):
        train(tmp_path, 1, AveragedWeights(), task=Tiny().bfloat16())


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [
        *("--config", str(ROOT / "configs" / "demo_segmentation.yaml")),
        *("--data.synthetic", "{train: 12, val: 5, size: [64, 80]}", "--data.workers", "0"),
        *("--data.batch_size", "4", "--data.crop_size", "64", "--data.scale", "[80, 64]"),
    ]
    averaging = "[{class_path: lk_downstream.callbacks.AveragedWeights, init_args: {decay: 0.5}}]"
    steps = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.callbacks", averaging]
    cli = main("fit", [*options, *steps])
    run = Path(cli.trainer.log_dir)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    saved = read(checkpoint)
    name = "head.conv_seg.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    assert torch.equal(load_task(checkpoint).state_dict()[name], saved["state_dict"][name])
    expected = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["last"]["summary"]
    capsys.readouterr()
    for source in (
        ["--config", str(run / "config.yaml"), "--ckpt_path", checkpoint],
        [*options, "--model.weights", checkpoint],
    ):
        evaluated = main("validate", source)
        assert evaluated.model.results["summary"] == pytest.approx(expected, rel=1e-6)
        assert torch.equal(evaluated.model.state_dict()[name].cpu(), saved["state_dict"][name])
    assert "averag" not in capsys.readouterr().err.lower()  # Lightning warns of what is as it should be


class Data(L.LightningDataModule):
    """Other images in each process."""

    def __init__(self):
        super().__init__()
        images = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        self.samples = [{"image": image, "label": index % 2} for index, image in enumerate(images)]

    def loader(self):
        return DataLoader(self.samples, 2, sampler=DistributedSampler(self.samples, shuffle=False))

    train_dataloader = val_dataloader = loader


def fit_as_one_of_two(rank, folder):
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=3, logger=False, use_distributed_sampler=False,
        callbacks=[AveragedWeights(DECAY), recorder := Recorder()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    task = Tiny()
    trainer.fit(task, Data())
    torch.save({"seen": task.seen[-1][1], "steps": recorder.steps}, folder / f"{rank}.pt")


def test_two_processes_evaluate_one_average(tmp_path):
    in_two_processes(fit_as_one_of_two, tmp_path)
    first, second = (read(tmp_path / f"{rank}.pt") for rank in (0, 1))
    name = "backbone.norm.running_mean"
    assert not torch.equal(first["steps"][3][name], second["steps"][3][name])  # each has its own images
    same(first["seen"], reference(first["steps"], 3), exactly=False)
    same(first["seen"], second["seen"])
