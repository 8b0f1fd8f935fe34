"""What a run's folder says of the run."""

import json

from lk_downstream.analysis.runs import read_run


def run(folder, step, checkpoints):
    (folder / "checkpoints").mkdir(parents=True)
    for name in checkpoints:
        (folder / "checkpoints" / name).touch()
    summary = {"step": step, "summary": {"mIoU": 0.4}}
    report = {"best": summary, "last": {**summary, "step": 9}, "seconds": 2.0, "device": "a CPU"}
    (folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "config.yaml").write_text("seed_everything: 0", encoding="utf-8")
    return folder


def test_the_best_checkpoint_is_the_one_that_the_report_names_wherever_it_lies(tmp_path):
    first = run(tmp_path / "run_0", 3, ["best_step=3.ckpt", "best_step=5.ckpt", "last.ckpt"])
    second = run(tmp_path / "run_1", 3, ["best_step=8.ckpt", "last.ckpt"])
    found = read_run(second, [first])
    assert found.checkpoint == first / "checkpoints" / "best_step=3.ckpt"
    assert found.seconds == 4.0


def test_without_it_the_last_one_stands_in_and_without_any_none(tmp_path):
    assert read_run(run(tmp_path / "run_0", 3, ["last.ckpt"])).checkpoint.name == "last.ckpt"
    assert read_run(run(tmp_path / "run_1", 3, [])).checkpoint is None
