"""Curves from the log of a run, reliability diagram, confused pairs: what they show, read back from the images."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lk_downstream.callbacks import Curves
from lk_downstream.cli import main
from lk_downstream.errors import InputError
from lk_downstream.reports.classification import calibration_error, draw_pairs, reliability_diagram
from lk_downstream.reports.curves import draw_curves, plot_run, read_series, smoothed

ROOT = Path(__file__).parents[2]
CSV = """epoch,lr-AdamW/pg1,lr-AdamW/pg2,step,train/loss,val/top1,val/top5
,0.1,0.2,9,,,
0,,,9,2.5,,
0,,,19,,0.25,0.5
0,,,29,nan,,
,0.1,0.2,29,,,
0,,,19,,0.5,0.75
"""


def share(image, colour):
    """How much of an image has about this colour."""
    return (np.abs(image.astype(int) - colour).max(-1) < 12).mean()


def test_series_are_read_by_step(tmp_path):
    (tmp_path / "metrics.csv").write_text(CSV, encoding="utf-8")
    series = read_series(tmp_path / "metrics.csv")
    assert sorted(series) == ["lr-AdamW/pg1", "lr-AdamW/pg2", "train/loss", "val/top1", "val/top5"]
    assert series["train/loss"][0].tolist() == [10]  # not what is no number
    assert series["lr-AdamW/pg1"][0].tolist() == [10, 30]
    assert [values.tolist() for values in series["val/top1"]] == [[20], [0.5]]  # the last of a step logged twice


def test_a_run_is_drawn_afterwards(tmp_path):
    with pytest.raises(InputError, match=r"has no metrics\.csv; give the folder of a run"):
        plot_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,step\n", encoding="utf-8")
    with pytest.raises(InputError, match="log_every_n_steps"):
        plot_run(tmp_path)
    (tmp_path / "metrics.csv").write_text(CSV, encoding="utf-8")
    without = np.asarray(Image.open(plot_run(tmp_path)))
    (tmp_path / "metrics.json").write_text(
        json.dumps({"best": {"summary": {"top5": 0.75, "top1": 0.5}}}), encoding="utf-8"
    )
    marked = np.asarray(Image.open(plot_run(tmp_path)))
    assert not np.array_equal(without, marked)  # the run's own main metric, not the first of the names
    assert np.array_equal(np.asarray(Image.open(plot_run(tmp_path, "val/top1"))), without)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.csv", "metrics.json"]


def test_there_is_a_panel_for_each_kind_of_metric():
    steps = np.arange(1, 101)
    series = {"train/loss": (steps, 1 / steps), "lr-AdamW/pg1": (steps, 1e-3 / steps), "val/top1": (steps, steps / 100)}
    widths = [draw_curves(dict(list(series.items())[:number])).shape[1] for number in (1, 2, 3)]
    assert [round(width / widths[0]) for width in widths] == [1, 2, 3]


def test_each_learning_rate_is_one_line():
    steps = np.arange(1, 101)
    rates = {f"lr-AdamW/pg{group}": (steps, np.full(100, 1e-3 * 0.7 ** (group // 2))) for group in range(8)}
    image = draw_curves(rates)
    column = image[:, image.shape[1] // 2].astype(int)  # through the lines, left of the legend's
    coloured = (column.max(-1) - column.min(-1)) > 60
    assert (np.diff(coloured.astype(int)) == 1).sum() == 4


def test_smoothing_neither_lags_nor_bends_at_the_ends():
    assert np.allclose(smoothed(np.ones(10), 4), 1)
    assert np.allclose(smoothed(np.arange(10.0), 3)[1:-1], np.arange(1, 9))
    assert smoothed(np.array([1.0, 5.0]), 0).tolist() == [1, 5]


def test_the_calibration_error_is_that_of_the_definition():
    counts, confidences, accuracies = np.array([0, 10, 30]), np.array([np.nan, 0.5, 0.9]), np.array([np.nan, 0.7, 0.8])
    assert calibration_error(counts, confidences, accuracies) == pytest.approx((10 * 0.2 + 30 * 0.1) / 40)
    assert np.isnan(calibration_error(counts * 0, confidences, accuracies))


def test_a_reliability_diagram_shows_accuracy_and_distance():
    counts, middles = np.full(15, 4), (np.arange(15) + 0.5) / 15
    good, bad = (reliability_diagram(counts, middles, middles * factor) for factor in (1, 0.3))
    blue, red = (31, 78, 121), (238, 204, 197)  # the second a third of the colour over white
    assert share(good, blue) > 2.5 * share(bad, blue)
    assert share(bad, red) > 0.1 > 20 * share(good, red)
    assert reliability_diagram(counts * 0, middles * np.nan, middles * np.nan).shape == good.shape


def test_confused_pairs_are_bars_by_count():
    pairs = [{"truth": "ant", "prediction": "bee", "count": 30, "share": 0.5}]
    pairs += [{"truth": "bee", "prediction": "a name that is much too long for an image", "count": 15, "share": 0.1}]
    image = draw_pairs(pairs)
    lengths = (np.abs(image.astype(int) - (31, 78, 121)).max(-1) < 12).sum(1)
    bars = lengths[lengths > 20]
    first, second = bars[: len(bars) // 2], bars[len(bars) // 2 :]
    assert np.median(first) / np.median(second) == pytest.approx(2, rel=0.03)


def test_a_dollar_sign_in_a_class_name_is_no_formula():
    assert draw_pairs([{"truth": "a$_", "prediction": "b$", "count": 3, "share": 0.5}]).ndim == 3


def test_a_monitor_that_the_run_does_not_have(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/top1,val/ECE\n3,0.5,0.25\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no metric val/top; did you mean 'val/top1'"):
        plot_run(tmp_path, "val/top")


def test_a_run_leaves_its_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli = main("fit", [
        *("--config", str(ROOT / "configs" / "demo_segmentation.yaml")),
        *("--data.synthetic", "{train: 12, val: 5, size: [64, 80]}", "--data.workers", "0"),
        *("--data.batch_size", "4", "--data.crop_size", "64", "--data.scale", "[80, 64]"),
        *("--trainer.max_steps", "3", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"),
    ])  # fmt: skip
    run = Path(cli.trainer.log_dir)
    series = read_series(run / "metrics.csv")
    assert series["train/loss"][0].tolist() == series["lr-AdamW/pg1"][0].tolist() == [1, 2, 3]
    drawn = np.asarray(Image.open(run / "curves.png"))
    assert np.array_equal(drawn, np.asarray(Image.open(plot_run(run))))  # complete when it was drawn
    assert os.path.join("run_0", "curves.png") in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "epoch,step\n", "epoch,step,train/loss\n0,9,nan\n"])
def test_a_run_without_plots_ends_as_any_other(tmp_path, content):
    if content:
        (tmp_path / "metrics.csv").write_text(content, encoding="utf-8")
    trainer = SimpleNamespace(logger=SimpleNamespace(log_dir=str(tmp_path)), is_global_zero=True)
    Curves().on_fit_end(trainer, SimpleNamespace(monitor="val/top1"))
    assert not (tmp_path / "curves.png").exists()


def test_a_classifier_leaves_its_plots(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--config", str(ROOT / "configs" / "demo_classification.yaml"), "--data.workers", "0", "--data.size", "32"]
    small += ["--data.synthetic", "{train: 32, val: 12, size: [40, 48]}", "--trainer.max_steps", "1"]
    cli = main("fit", [*small, "--trainer.val_check_interval", "1"])
    run, results = Path(cli.trainer.log_dir), cli.model.results
    bins = results["calibration"]
    error = calibration_error(bins["count"], bins["confidence"], bins["accuracy"])
    assert error == pytest.approx(results["summary"]["ECE"])
    expected = reliability_diagram(bins["count"], bins["confidence"], bins["accuracy"])
    assert np.array_equal(np.asarray(Image.open(run / "reliability.png")), expected)
    assert np.array_equal(np.asarray(Image.open(run / "confusions.png")), draw_pairs(results["confused"]))
    shown = capsys.readouterr().out
    assert all(os.path.join("run_0", name) in shown for name in ("curves.png", "reliability.png", "report.html"))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f">{title}</h2>" in page for title in ("Result", "Curves", "Classes", "Images", "Run"))
    assert "lk-downstream fit --config" in page
