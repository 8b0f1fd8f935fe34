"""Tables, plots and the page of a comparison."""

import csv
import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from test_page import CLASSES, samples

from lk_downstream.reports.charts import Chart, Line
from lk_downstream.reports.comparison import Comparison, Costs, Model, as_csv, as_latex, as_markdown, as_text, columns
from lk_downstream.reports.comparison_images import common_images
from lk_downstream.reports.comparison_page import write
from lk_downstream.reports.comparison_plots import draw_costs, draw_curves, pareto
from lk_downstream.reports.files import write_json
from lk_downstream.reports.images import plain
from lk_downstream.reports.page import Section, page

DIFFERENCE = SimpleNamespace(difference=0.031, low=0.011, high=0.05, seeds=True, noise=False)
COSTS = Costs(parameters=5_000_000, macs=2.5e9, latency=0.0123, spread=0.0004, memory=80 * 2**20, size=(240, 320))
ODD = 'a|b_{50%} & "<b>'


def comparison(**changes):
    models = [
        Model("convnext_atto", [0.4, 0.42], [0.39, 0.42], 600, [{10: 0.3, 20: 0.4}, {10: 0.2, 20: 0.42}], costs=COSTS),
        Model(ODD, [0.45, math.nan], [0.44, 0.43], 900, [{10: 0.3, 20: 0.45}, {}], 0.4917, DIFFERENCE, COSTS),
    ]
    own = {"metric": "mIoU", "models": models, "baseline": "convnext_atto", "devices": ["2 CPU threads"]}
    return Comparison(**{**own, "differing": ["model.backbone.name", "seed_everything"], **changes})


def test_columns():
    cells = columns(comparison())
    assert cells["mIoU best"] == ["41.00 ± 1.41", "45.00"]
    assert cells["difference"] == ["", "+3.10 *"]
    assert cells["95 %"] == ["", "+1.10 to +5.00"]
    assert cells["published"] == ["", "49.17"]
    assert cells["latency ms"] == ["12.3 ± 0.4"] * 2
    assert cells["memory MiB"] == ["80"] * 2
    assert cells["training min"] == ["10.0", "15.0"]
    bare = Comparison("mIoU", [Model("a", [0.4], [0.4], 60)], "a", [], [])
    assert list(columns(bare)) == ["model", "runs", "mIoU best", "mIoU last", "training min"]


def test_odd_names_are_texts_in_every_form():
    cells = columns(comparison())
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison()))))
    assert [row["model"] for row in rows] == ["convnext_atto", ODD]
    assert float(rows[1]["low"]) == 0.011
    assert rows[1]["noise"] == "False"
    assert rows[0]["low"] == ""
    markdown = as_markdown(cells).splitlines()
    assert len(markdown) == 4
    assert markdown[3].startswith(r'| a\|b\_{50%} & "\<b\> |')
    latex = as_latex(cells)
    assert r'a|b\_\{50\%\} \& "<b> &' in latex
    assert r"41.00 $\pm$ 1.41" in latex
    assert as_text(cells).row_count == 2


def test_notes_say_what_differs_and_what_the_marks_mean():
    said = " ".join(comparison().notes())
    assert "differ in model.backbone.name; all else is the same" in said
    assert "images and seeds" in said
    assert "240 x 320" in said
    assert "differ in seeds alone" in " ".join(comparison(differing=["seed_everything"]).notes())
    assert "do not compare their times" in " ".join(comparison(devices=["a", "b"]).notes())


def test_pareto_front():
    points = [(3.0, 40.0), (1.0, 30.0), (2.0, 29.0), (1.0, 31.0), (4.0, 40.0)]
    assert pareto(points) == [3, 0]
    assert pareto([]) == []


def test_plots_and_page(tmp_path):
    assert draw_costs(comparison()).ndim == 3
    curves = draw_curves(comparison())
    assert curves.dtype == np.uint8
    assert draw_costs(Comparison("mIoU", [Model("a", [0.4], [0.4], 60)], "a", [], [])) is None
    files = write(comparison(), tmp_path, "A study", ["lk-downstream fit --config x"])
    assert sorted(path.name for path in files) == sorted(path.name for path in tmp_path.iterdir())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ODD not in page
    assert "&#34;&lt;b&gt;" in page
    assert "lk-downstream fit --config x" in page


def run_with(folder, names, metric, classes=CLASSES):
    """The folder of a run that shows some images."""
    shown = [replace(each, name=name, metric=metric) for name in names for each in samples(name)[:1]]
    write_json(folder / "worst_images.json", plain(shown, "mIoU", classes, [(9, 9, 9)] * len(classes), 20))
    return folder


def test_the_images_that_all_models_show(tmp_path):
    folders = {"a": run_with(tmp_path / "a", "xyz", 0.5), ODD: run_with(tmp_path / "b", "yxw", 0.25)}
    found = common_images(folders)
    assert [(sample.name, sample.facts["model"]) for sample in found.samples] == [
        ("x", "a"),
        ("x", ODD),
        ("y", "a"),
        ("y", ODD),
    ]
    assert [sample.metric for sample in found.samples] == [0.5, 0.25] * 2
    write(comparison(images=found), tmp_path, "two")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<article") == 4
    assert "model a|b_{50%} &amp; &#34;&lt;b&gt;" in text


def test_no_images_of_other_classes_or_of_one_model(tmp_path):
    one, other = run_with(tmp_path / "a", "x", 0.5), run_with(tmp_path / "b", "x", 0.5, (*CLASSES[:-1], "other"))
    assert common_images({"a": one, "b": other}) is None
    assert common_images({"a": one}) is None
    assert common_images({"a": one, "b": tmp_path / "none"}) is None


def test_runs_of_a_model_have_its_colour_and_one_place_in_the_legend():
    lines = [Line(name, [0, 1], [0, 1]) for name in ("a", "b", "a")]
    assert [line.colour for line in Chart(lines).drawing()["lines"]] == [0, 1, 0]
    shown = page("title", [Section("curves", [Chart(lines)])])
    assert shown.count("</i>a</span>") == shown.count("</i>b</span>") == 1
