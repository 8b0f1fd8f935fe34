"""Studies: plans, runs side by side, stops, failures; the runs themselves are a stand-in for ``lk-downstream fit``."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lk_downstream import study as studies
from lk_downstream.claims import claim
from lk_downstream.commands import study as command
from lk_downstream.errors import InputError
from lk_downstream.study import Planned, Study, label, plan, work

# Does ten steps of a tenth of a second; a SIGTERM ends it with a checkpoint, from which it goes on.
PROGRAM = """
import json, signal, sys, time
from pathlib import Path
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
above = Path(options["trainer.default_root_dir"]) / "config"
above.mkdir(parents=True, exist_ok=True)
run = above / f"run_{len(list(above.iterdir()))}"
(run / "checkpoints").mkdir(parents=True)
step = json.loads(Path(options["ckpt_path"]).read_text()) if "ckpt_path" in options else 0
first = step
def stop(*_):
    (run / "checkpoints" / "last.ckpt").write_text(json.dumps(step))
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("step 0", flush=True)
if options.get("model.name") == "broken":
    print("error: it does not\\n  work", flush=True)
    sys.exit(1)
if options.get("model.name") == "slow":
    while step < 10:
        time.sleep(0.1)
        step += 1
value = 0.4 + 0.01 * float(options.get("seed_everything", 0)) + 0.1 * (options.get("model.name") == "slow")
summary = {"step": 10, "summary": {"mIoU": value}}
report = {"best": summary, "last": summary, "seconds": 5.0, "device": "2 CPU threads"}
(run / "metrics.json").write_text(json.dumps(report))
(run / "metrics.csv").write_text(f"epoch,step,val/mIoU\\n0,4,{value - 0.1}\\n0,9,{value}\\n")
config = {"model": {"class_path": "S", "init_args": {"name": options.get("model.name")}}, "seed_everything": first}
(run / "config.yaml").write_text(json.dumps(config))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(studies, "PROGRAM", (sys.executable, str(path)))


def study(folder, axes, **options):
    made = Study(folder, ("--config=some.yaml",), plan(axes, **options))
    made.begin()
    return made


def states(made):
    return {run.name: made.state(run)["state"] for run in made.runs}


def test_plan_is_every_combination_with_names_that_are_folders():
    runs = plan({"model.backbone.name": ["convnext_atto", "slak/x"], "model.width": [1.3], "seed_everything": [0, 1]})
    assert [run.name for run in runs][:2] == ["convnext_atto-width_1.3-seed_0", "convnext_atto-width_1.3-seed_1"]
    assert [run.variant for run in runs][:2] == ["convnext_atto-width_1.3"] * 2
    assert all(set("/\\") & set(run.name) == set() for run in runs)
    assert runs[1].words == ["--model.backbone.name=convnext_atto", "--model.width=1.3", "--seed_everything=1"]
    assert [run.variant for run in plan({"seed_everything": [0, 1]})] == ["as it is"] * 2
    variants = [{"name": "3x3", "options": {"model.kernel": [3, 3]}, "published": {"mIoU": 0.4605}}, {"name": "31x31"}]
    runs = plan({"data.fold": [0, 1]}, variants)
    assert [run.name for run in runs] == ["3x3-fold_0", "3x3-fold_1", "31x31-fold_0", "31x31-fold_1"]
    assert runs[0].words == ["--model.kernel=[3, 3]", "--data.fold=0"]
    assert runs[0].published == {"mIoU": 0.4605}


@pytest.mark.parametrize(
    ("axes", "said"),
    [({"a.b": 3}, "give a list of values"), ({"a.b": []}, "give a list"), ({"a.b": [1, 1]}, "would be the same")],
)
def test_plans_that_make_no_sense(axes, said):
    with pytest.raises(InputError, match=said):
        plan(axes)


def test_labels():
    assert label("seed_everything", 3) == "seed_3"
    assert label("model.backbone.kernel_sizes", [31, 29]) == "kernel_sizes_31-29"
    assert label("model.backbone.name", "resnet18") == "resnet18"


def test_runs_are_done_and_one_that_fails_ends_nothing(tmp_path, stand_in):
    made = study(tmp_path / "s", {"model.name": ["broken", "quick"], "seed_everything": [0, 1]})
    said = []
    work(made, said.append, lambda: False)
    assert states(made) == {
        "broken-seed_0": "failed",
        "broken-seed_1": "failed",
        "quick-seed_0": "finished",
        "quick-seed_1": "finished",
    }
    assert made.state(made.runs[0])["error"] == "it does not work"
    assert any("failed" in line and "it does not work" in line for line in said)
    found = made.finished()
    assert [run.best for run in found["quick"]] == pytest.approx([0.4, 0.41])
    assert found["quick"][0].curve == {5: pytest.approx(0.3), 10: pytest.approx(0.4)}
    work(made, said.append, lambda: False)  # what is finished is not done again, what failed is tried again
    assert sum("begins" in line for line in said) == 6


def test_a_study_that_is_stopped_goes_on_from_its_checkpoint(tmp_path, stand_in):
    made = study(tmp_path / "s", {"model.name": ["slow"]})
    stop = threading.Event()
    said = []
    worker = threading.Thread(target=work, args=(made, said.append, stop.is_set))
    worker.start()
    log = tmp_path / "s" / "slow" / studies.LOG
    deadline = time.monotonic() + 60
    while not (log.is_file() and "step 0" in log.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    worker.join(60)
    assert states(made) == {"slow": "waiting"}
    assert "is stopped" in said[-1]
    work(made, said.append, lambda: False)
    assert states(made) == {"slow": "finished"}
    assert any("goes on" in line for line in said)
    (run,) = made.finished()["slow"]
    assert len(made.attempts(made.runs[0])) == 2
    assert run.folder.name == "run_1"


def test_a_run_that_is_complete_is_not_done_again_where_nobody_lived_to_note_it(tmp_path, stand_in):
    made = study(tmp_path / "s", {"model.name": ["quick"]})
    work(made, lambda line: None, lambda: False)
    (attempt,) = made.attempts(made.runs[0])
    (attempt / "config.yaml").write_text("trainer: {max_steps: 10}", encoding="utf-8")
    (tmp_path / "s" / "quick" / studies.STATE).unlink()
    said = []
    work(made, said.append, lambda: False)
    assert states(made) == {"quick": "finished"}
    assert said == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is not told of its parent's end")
def test_a_killed_study_takes_its_run_with_it(tmp_path, stand_in):
    study(tmp_path / "s", {"model.name": ["slow"]})
    program = (
        "import sys; from pathlib import Path; from lk_downstream import study\n"
        f"study.PROGRAM = {studies.PROGRAM!r}\n"
        "study.work(study.Study.read(Path(sys.argv[1])), print, lambda: False)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "s")])
    log = tmp_path / "s" / "slow" / studies.LOG
    deadline = time.monotonic() + 60
    while not (log.is_file() and "step 0" in log.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = tmp_path / "s" / "slow" / "config" / "run_0" / "checkpoints" / "last.ckpt"
    while not kept.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads(kept.read_text(encoding="utf-8")) < 10
    assert states(Study.read(tmp_path / "s")) == {"slow": "waiting"}


def test_two_workers_share_a_study(tmp_path, stand_in):
    made = study(tmp_path / "s", {"model.name": ["slow"], "seed_everything": [0, 1, 2, 3]})
    said: list[list[str]] = [[], []]
    workers = [threading.Thread(target=work, args=(made, lines.append, lambda: False)) for lines in said]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert set(states(made).values()) == {"finished"}
    begun = [sum("begins" in line for line in lines) for lines in said]
    assert sum(begun) == 4
    assert min(begun) >= 1
    assert all(len(made.attempts(run)) == 1 for run in made.runs)


def test_what_another_process_has_claimed_is_left_to_it(tmp_path, stand_in):
    made = study(tmp_path / "s", {"model.name": ["quick"], "seed_everything": [0, 1]})
    folder = tmp_path / "s" / "quick-seed_0"
    folder.mkdir()
    with claim(folder):
        work(made, lambda line: None, lambda: False)
        assert states(made) == {"quick-seed_0": "running", "quick-seed_1": "finished"}


def test_another_study_in_the_same_folder_is_refused_and_a_longer_one_goes_on(tmp_path, stand_in):
    study(tmp_path, {"model.name": ["quick"]})
    with pytest.raises(InputError, match="of other options"):
        Study(tmp_path, ("--config=other.yaml",), plan({"model.name": ["quick"]})).begin()
    with pytest.raises(InputError, match="of other options"):
        Study(tmp_path, ("--config=some.yaml",), (Planned("quick", "quick", {"model.name": "slow"}),)).begin()
    study(tmp_path, {"model.name": ["more"]})
    assert [run.name for run in Study.read(tmp_path).runs] == ["more", "quick"]
    (tmp_path / studies.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not what a study writes"):
        Study.read(tmp_path)


def test_words_of_the_command_line(tmp_path):
    read = command.read(
        ["--config", "demo_segmentation", "--vary.seed_everything", "[0, 1]", "--trainer.max_steps=5", "--jobs=2"]
    )
    assert read.axes == {"seed_everything": [0, 1]}
    assert read.jobs == 2
    assert read.folder == "studies/demo_segmentation"
    assert read.words[0] == "--config"
    assert Path(read.words[1]).is_file()
    assert read.words[2:] == ["--trainer.max_steps=5"]
    file = tmp_path / "kernels.yaml"
    content = {
        "config": "demo_segmentation",
        "options": {"trainer.max_steps": 7},
        "variants": [{"name": "3", "options": {"model.backbone.name": "x"}, "published": {"mIoU": 0.46}}],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    read = command.read([f"--study={file}", "--vary.seed_everything=[0]", "--trainer.max_steps=5"])
    assert read.words[-2:] == ["--trainer.max_steps=7", "--trainer.max_steps=5"]  # the later one counts
    assert read.variants == content["variants"]
    assert read.folder == "studies/kernels"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "demo_segmentation"], "nothing varies"),
        (["--vary.seed_everything", "[0]"], "--config: name the config"),
        (["--config", "demo_segmentation", "--vary.a", "[0"], "no list of YAML"),
        (["--config", "demo_segmentation", "--vary.a"], "give its value"),
        (["--config", "demo_segmentation", "--vary.a", "[0]", "--jobs", "no"], "number of runs"),
        (["--config", "demo_segmentation", "--vary.a", "[0]", "--costs", "no"], "true or false"),
        (["--study", "nowhere"], "there is no file nowhere"),
    ],
)
def test_mistakes(words, said):
    with pytest.raises(InputError, match=said):
        command.read(words)
