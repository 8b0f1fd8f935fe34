"""``lk-downstream export`` of a run with files in other precisions, and what they lose on its data."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import small_models
import torch
import yaml
from PIL import Image

from lk_downstream import commands, export, exported, loading

TRAINED = Path(__file__).parents[1] / "checkpoints" / "version_1.ckpt"  # of three classes


@pytest.fixture
def run(tmp_path):
    """The folder of a run, with its data."""
    folder = tmp_path / "runs" / "insects" / "run_0"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(TRAINED, folder / "checkpoints" / "last.ckpt")
    for number, batch in enumerate(small_models.images(12)):
        path = tmp_path / "insects" / "val" / ("ant", "bee", "cat")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(batch[0].permute(1, 2, 0).numpy()).save(path)
    data = {"class_path": "lk_downstream.data.ClassFolder", "init_args": {"root": str(tmp_path / "insects")}}
    settings = {"dataset": data, "size": 64, "workers": 0}
    config = {"data": {"class_path": "lk_downstream.data.ClassificationData", "init_args": settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.mark.skipif(not all(map(importlib.util.find_spec, export.PACKAGES)), reason="the extra `export` is missing")
def test_other_precisions_with_what_they_lose(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", str(run), "--output", "exported/insects", "--formats", "[onnx]"]
    words += [
        "--precisions",
        "[float16, int8]",
        "--calibrate",
        str(tmp_path / "insects" / "val"),
        "--score_on",
        str(run),
    ]
    assert commands.run("export", words) == 0
    said = capsys.readouterr().out
    paths = [f"exported/insects{part}.onnx" for part in ("", "_float16", "_int8")]
    assert "of the original's decisions on the images of --calibrate" in said
    numbers = r" │ +([\d.]*) │ +([\d.]+) │ +([-+.\d]*) "
    rows = {path: re.search(re.escape(path) + " *" + numbers, said).groups() for path in paths}
    original = float(re.search("original *" + numbers, said)[2])
    task = loading.opened(run, torch.device("cpu")).network
    data = export.validation_data(run, task)
    assert original == pytest.approx(export.score(task, data)["top1"], abs=1e-4)
    for path, (_, value, difference) in rows.items():
        (expected,) = export.score(task, data, exported.open_exported(path)).values()
        assert float(value) == pytest.approx(expected, abs=1e-4)
        assert float(difference) == pytest.approx(expected - original, abs=2e-4)
    assert float(rows[paths[0]][2]) == 0
