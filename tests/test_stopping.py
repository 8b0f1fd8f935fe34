"""A run that a signal ends keeps all steps that it has done, says how it goes on, and its exit status tells why."""

import csv
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from commands_in_children import Child
from kills import kill_at_random

from lk_downstream.callbacks import Stopping
from lk_downstream.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIONS = (
    *("--config", str(CONFIGS / "demo_segmentation.yaml"), "--model.backbone.drop_path_rate", "0.2"),
    *("--data.synthetic", "{train: 20, val: 3, size: [48, 64]}", "--data.batch_size", "4", "--data.workers", "1"),
    *("--data.crop_size", "32", "--data.scale", "[64, 48]", "--trainer.accumulate_grad_batches", "2"),
    *("--trainer.callbacks+=AveragedWeights", "--trainer.callbacks.decay=0.5"),
    *("--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--trainer.deterministic", "true"),
)
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
SIGNALS = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # SIGHUP under nohup


def sends(number, hook, call, times=1):
    """A class of callbacks that signals its own process when ``hook`` is called the ``call``-th time."""

    class Sends(L.Callback):
        calls = 0

        def _send(self, trainer, *args, **options):
            self.calls += not trainer.sanity_checking
            if self.calls == call:
                for _ in range(times):
                    os.kill(os.getpid(), number)

    setattr(Sends, hook, Sends._send)
    return Sends


def run(folder, *more, kind="fit", options=OPTIONS):
    main(kind, [*options, "--trainer.default_root_dir", str(folder), *more])


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["best"]


def assert_same(folder, whole):
    ours, theirs = last(folder), last(whole)
    for part in ("state_dict", "current_model_state"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in ours[part].items():
            assert torch.equal(tensor, theirs[part][name]), name
    assert metrics(folder) == metrics(whole)


def step_validated(folder):
    """The last step whose validation a run has come to the end of, or 0."""
    return (
        last(folder)["callbacks"][next(name for name in last(folder)["callbacks"] if "Checkpoints" in name)][
            "validated_step"
        ]
        or 0
    )


def validations(folder):
    """Steps of the validations whose metrics are in the table of a run."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [int(row["step"]) + 1 for row in csv.DictReader(file) if row.get("val/mIoU")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "runs")
    return folder


@pytest.fixture
def place(unbroken, tmp_path, monkeypatch):
    """An empty folder with the data."""
    (tmp_path / "data").symlink_to(unbroken / "data", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lk-downstream"])  # by which the command that goes on is told
    return tmp_path


MOMENTS = {  # hook and how often it was called when the signal comes -> step of the checkpoint
    ("on_after_backward", 3): 2,  # of the first half of a step
    ("on_before_optimizer_step", 4): 4,
    ("on_validation_batch_end", 2): 3,
    ("on_validation_end", 1): 3,
    ("on_save_checkpoint", 1): 3,
    ("on_validation_batch_end", 5): 6,  # of the last validation
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(moment, unbroken, place, monkeypatch, capsys):
    number = SIGNALS[list(MOMENTS).index(moment) % len(SIGNALS)]
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", sends(number, *moment))
        with pytest.raises(SystemExit) as stopped:
            run(place / "runs")
    assert stopped.value.code == 128 + number
    said = capsys.readouterr().out.splitlines()[-1]
    stop = place / "runs/demo_segmentation/run_0"
    step = MOMENTS[moment]
    assert said.startswith(f"stopped at step {step} by {signal.Signals(number).name}; to go on: lk-downstream fit")
    assert last(stop)["global_step"] == step
    config, checkpoint = said.split()[-3::2]
    main("fit", ["--config", config, "--ckpt_path", checkpoint])
    assert_same(stop.with_name("run_1"), unbroken / "runs/demo_segmentation/run_0")
    validated = [step for step in (3, 6) if step > step_validated(stop)]
    assert validations(stop.with_name("run_1")) == validated
    assert not list(place.rglob("*.part"))


def test_before_the_first_step_nothing_is_left(place, monkeypatch):
    monkeypatch.setattr("lk_downstream.cli.RunProgress", sends(SIGNALS[0], "setup", 1))
    with pytest.raises(SystemExit) as stopped:
        run(place / "runs")
    assert stopped.value.code == 128 + SIGNALS[0]
    assert not (place / "runs").exists()


def test_a_second_interrupt_does_not_wait(place, monkeypatch, capsys):
    monkeypatch.setattr("lk_downstream.cli.RunProgress", sends(signal.SIGINT, "on_before_optimizer_step", 2, times=2))
    with pytest.raises(SystemExit) as stopped:
        run(place / "runs")
    assert stopped.value.code == 130
    assert "stopped at step 1 by SIGINT, before its first checkpoint" in capsys.readouterr().out


def test_what_was_ignored_stays_ignored(place, monkeypatch):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        monkeypatch.setattr("lk_downstream.cli.RunProgress", sends(signal.SIGHUP, "on_before_optimizer_step", 1))
        run(place / "runs")
    finally:
        signal.signal(signal.SIGHUP, former)
    assert last(place / "runs/demo_segmentation/run_0")["global_step"] == 6


def test_handlers_are_given_back(unbroken, place):
    assert [signal.getsignal(number) for number in SIGNALS] == [
        signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS
    ]


def test_predictions_that_are_written_stay(unbroken, place, monkeypatch):
    images = next(unbroken.glob("data/*/leftImg8bit/train/aachen"))
    monkeypatch.setattr("lk_downstream.cli.RunProgress", sends(SIGNALS[0], "on_predict_batch_start", 3))
    checkpoint = unbroken / "runs/demo_segmentation/run_0/checkpoints/last.ckpt"
    with pytest.raises(SystemExit) as stopped:
        run(place / "runs", "--ckpt_path", str(checkpoint), "--data.predict", str(images), kind="predict")
    assert stopped.value.code == 128 + SIGNALS[0]
    assert len(list(place.glob("runs/*/prediction_0/labels/*.png"))) == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_an_evaluation_ends_wherever_it_is_and_leaves_no_metrics(number, unbroken, place, monkeypatch, capsys):
    monkeypatch.setattr("lk_downstream.cli.RunProgress", sends(number, "on_validation_batch_end", 2))
    checkpoint = unbroken / "runs/demo_segmentation/run_0/checkpoints/last.ckpt"
    with pytest.raises(SystemExit) as stopped:
        run(place / "runs", "--ckpt_path", str(checkpoint), kind="validate")
    assert stopped.value.code == 128 + number
    assert f"stopped by {signal.Signals(number).name}" in capsys.readouterr().out
    assert not list(place.glob("runs/*/evaluation_0/metrics.json"))  # of two thirds of the images


@pytest.mark.parametrize("batch_size", ["1", "2"])
def test_a_damaged_image_is_named_and_the_others_are_predicted(batch_size, unbroken, place):
    images = place / "images"
    shutil.copytree(next(unbroken.glob("data/*/leftImg8bit/train/aachen")), images)
    damaged = sorted(images.iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:500])
    checkpoint = unbroken / "runs/demo_segmentation/run_0/checkpoints/last.ckpt"
    options = ("--ckpt_path", str(checkpoint), "--data.predict", str(images), "--data.val_batch_size", batch_size)
    with pytest.warns(match=damaged.name), pytest.raises(SystemExit, match=f"1 of the images.*{damaged.name}"):
        run(place / "runs", *options, kind="predict")
    written = {path.stem for path in place.glob("runs/*/prediction_0/labels/*.png")}
    assert written == {path.stem for path in images.iterdir()} - {damaged.stem}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("number", SIGNALS[:2])
def test_a_signal_to_the_whole_group_ends_loader_processes_quietly(number, place, monkeypatch):
    monkeypatch.setattr("lk_downstream.cli.RunProgress", waits("on_train_batch_end", 5))
    child = Child("fit", [*OPTIONS, "--trainer.default_root_dir", "runs"], place)
    child.until(lambda: "waits" in child.printed())
    child.send(number, group=True)
    assert child.wait(30) == 128 + number
    lines = [line.split(":")[0] for line in child.printed().splitlines()[1:]]
    assert lines == ["waits", f"stopped at step 3 by {number.name}; to go on"]


def waits(hook, call):
    """A class of callbacks that waits for a signal at the ``call``-th call of ``hook``, and says so."""

    class Waits(L.Callback):
        calls = 0

        def _wait(self, trainer, *args, **options):
            self.calls += not trainer.sanity_checking
            if self.calls == call:
                print("waits", flush=True)
                stopping = next(callback for callback in trainer.callbacks if isinstance(callback, Stopping))
                while stopping.signals.received is None:
                    signal.pause()

    setattr(Waits, hook, Waits._wait)
    return Waits


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("signalled", [0, 1])
def test_all_processes_stop_at_the_step_of_which_one_was_told(signalled, unbroken, place, monkeypatch, unused_port):
    class Sends(sends(SIGNALS[0], "on_after_backward", 3)):
        def on_fit_start(self, trainer, task):
            self.calls = 0 if trainer.global_rank == signalled else 100

    options = [*OPTIONS, "--trainer.default_root_dir", "runs", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    options += ["--trainer.accelerator", "cpu", "--data.batch_size", "8", "--data.workers", "0"]

    def start(more=()):
        # Each has a folder of its own, as nodes without a common file system.
        nodes = [
            Child("fit", [*options, *more], place / f"node{rank}", {"NODE_RANK": str(rank), **unused_port()})
            for rank in (0, 1)
        ]
        return [(node.wait(), node.printed()) for node in nodes]

    for rank in (0, 1):
        (place / f"node{rank}").mkdir()
        (place / f"node{rank}" / "data").symlink_to(unbroken / "data", target_is_directory=True)
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", Sends)
        (first, said), (second, _) = start()
    assert (first, second) == (143, 0), said
    assert "stopped at step 3 by SIGTERM" in said  # a step later than it came, see Votes
    stop = place / "node0/runs/demo_segmentation/run_0"
    assert last(stop)["global_step"] == 3
    (first, said), (second, other) = start(("--ckpt_path", "runs/demo_segmentation/run_0/checkpoints/last.ckpt"))
    assert (first, second) == (0, 0), said + other
    assert last(stop.with_name("run_1"))["global_step"] == 6
    assert not list(place.glob("node1/runs/*/*/*"))


@pytest.fixture
def unused_port():
    """Variables by which two processes find each other; others at each second call."""
    import socket

    calls, ports = [], []

    def variables():
        if len(calls) % 2 == 0:
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                ports.append(unused.getsockname()[1])
        calls.append(None)
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports[-1])}

    return variables


def test_a_requeued_job_goes_on_with_its_own_run(unbroken, place, monkeypatch, capsys):
    calls = place / "calls"
    (place / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {calls}\n", encoding="utf-8")
    (place / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    (place / "runs").mkdir()
    shutil.copy(unbroken / "runs/demo_segmentation/run_0/checkpoints/last.ckpt", place / "runs/hpc_ckpt_1.ckpt")
    for name, value in {"ID": "71", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{'JOB_ID' if name == 'ID' else name}", value)
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", sends(signal.SIGUSR1, "on_before_optimizer_step", 2))
        with pytest.raises(SystemExit) as stopped:
            run(place / "runs")
    assert stopped.value.code == 128 + signal.SIGUSR1
    assert calls.read_text(encoding="utf-8") == "requeue 71\n"
    runs = place / "runs/demo_segmentation"
    assert last(runs / "run_0")["global_step"] == 2
    with monkeypatch.context() as patch:  # another job of the same command
        patch.setenv("SLURM_JOB_ID", "72")
        patch.setattr("lk_downstream.cli.RunProgress", sends(SIGNALS[0], "on_before_optimizer_step", 1))
        with pytest.raises(SystemExit):
            run(place / "runs")
    assert last(runs / "run_1")["global_step"] == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    capsys.readouterr()
    run(place / "runs")
    assert "goes on from" in capsys.readouterr().out
    assert_same(runs / "run_2", unbroken / "runs/demo_segmentation/run_0")
    with pytest.raises(SystemExit) as ended:  # requeued once more, as after a node's failure
        run(place / "runs")
    assert ended.value.code == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_data_that_vanish_cost_no_step(workers, unbroken, place, monkeypatch, capsys):
    (place / "data").unlink()
    shutil.copytree(unbroken / "data", place / "data")

    class Removes(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 4 and (place / "data").exists():
                (place / "data").rename(place / "elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", Removes)
        with pytest.raises(SystemExit, match=r"cannot read .*No such file or directory"):
            run(place / "runs", "--data.workers", workers)
    said = capsys.readouterr().out.splitlines()[-1]
    config, checkpoint = said.split()[-3::2]
    stop = place / "runs/demo_segmentation/run_0"
    assert said.startswith(f"stopped at step {last(stop)['global_step']} by an error; to go on: lk-downstream fit")
    assert last(stop)["global_step"] > 3  # where the last validation has saved
    (place / "elsewhere").rename(place / "data")
    main("fit", ["--config", config, "--ckpt_path", checkpoint])
    assert_same(stop.with_name("run_1"), unbroken / "runs/demo_segmentation/run_0")


def test_a_folder_that_becomes_read_only(place, monkeypatch, capsys):
    def open_(path, mode="r", *args, **options):
        if path.name == "last.ckpt.part" and path.with_name("last.ckpt").exists():
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return open(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(SystemExit, match=r"Read-only file system \(.*last\.ckpt\.part\): make room, or name another"):
        run(place / "runs")
    monkeypatch.undo()
    assert "; to go on: lk-downstream fit --config" in capsys.readouterr().out.splitlines()[-1]
    assert last(place / "runs/demo_segmentation/run_0")["global_step"] == 3


def test_a_loader_process_that_is_killed(place, monkeypatch):
    class Kills(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 4:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(1)

    monkeypatch.setattr("lk_downstream.cli.RunProgress", Kills)
    with pytest.raises(SystemExit, match=r"a loader process (was killed|has ended).*--data.workers.*--ckpt_path"):
        run(place / "runs")
    # Of the last validation, or of the step that is done, by where the main process is when it learns of it.
    assert last(place / "runs/demo_segmentation/run_0")["global_step"] in (3, 4)


class NoRoom:
    """Stands in for a file on a disk that is full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self.file, name)


LEFT = """
import sys
from torch.utils.data import DataLoader
from lk_downstream.stopping import end_loaders_at_exit, leave_to_parent
end_loaders_at_exit()
sys.modules["kept"] = iter(DataLoader([0], num_workers=1, persistent_workers=True, worker_init_fn=leave_to_parent))
next(sys.modules["kept"])
sys.exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="where loader processes are spawned they cannot be left")
def test_a_loader_process_that_is_left_holds_up_nothing():
    assert subprocess.run([sys.executable, "-c", LEFT], timeout=120).returncode == 3


def test_a_full_disk_leaves_the_checkpoint_before(place, monkeypatch):
    def open_(path, mode="r", *args, **options):
        file = open(path, mode, *args, **options)  # noqa: SIM115
        return NoRoom(file) if path.name == "last.ckpt.part" and last_is_there(path) else file

    def last_is_there(path):
        return path.with_name("last.ckpt").exists()

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(SystemExit, match=r"No space left on device.*make room"):
        run(place / "runs")
    monkeypatch.undo()
    folder = place / "runs/demo_segmentation/run_0"
    assert last(folder)["global_step"] == 3
    assert not list(folder.rglob("*.part"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_at_random_moments(tmp_path):
    assert len(list(kill_at_random("segmentation", tmp_path, 2))) == 2
