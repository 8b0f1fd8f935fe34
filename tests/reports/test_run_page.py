"""The page of a run, drawn from its files: sections, size, names from outside, files that are missing or damaged."""

import csv
import json
import shutil

import numpy as np
import pytest
from test_page import EVIL, Seen, samples

from lk_downstream.commands import run
from lk_downstream.errors import InputError
from lk_downstream.reports.files import write_json, write_table
from lk_downstream.reports.images import plain
from lk_downstream.reports.page import MOST_BYTES
from lk_downstream.reports.run import write_run_page

CLASSES = ("road", EVIL, "sky")
SUMMARY = {"mIoU": 0.5, "mAcc": 0.625, "aAcc": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with all of the files that a page is drawn from, in which names are hostile."""
    folder = tmp_path_factory.mktemp("runs") / "demo" / "run_0"
    validation = {"step": 20, "summary": SUMMARY, "classes": {"class": list(CLASSES), "IoU": [0.5, 0.25, None]}}
    counts = {"count": [0, 4], "confidence": [None, 0.75], "accuracy": [None, 0.5]}
    pairs = [{"truth": EVIL, "prediction": "sky", "count": 3, "share": 0.75}]
    metrics = {"best": {**validation, "calibration": counts, "confused": pairs}, "last": {**validation, "step": 30}}
    metrics |= {"seconds": 61.0, "device": EVIL, "command": f"lk-downstream fit --config {EVIL}"}
    metrics |= {"versions": {"torch": "2.9", "Python": "3.11"}, "machine": {"system": "Linux", "cores": 2}}
    write_json(folder / "metrics.json", metrics)
    columns = ["epoch", "lr-AdamW/pg1", "lr-AdamW/pg2", "step", "train/loss", "train/loss_decode", "val/mIoU"]
    rows = [[0, 0.1, 0.001, step, 2.5 / (step + 1), 1.5 / (step + 1), None] for step in range(0, 300, 10)]
    write_table(folder / "metrics.csv", columns, [*rows, [0, None, None, 19, None, None, 0.5]])
    write_table(folder / "per_image.csv", ["name", "mIoU", "worst class"], [[EVIL, 0.25, EVIL], ["b", 0.5, ""]])
    counts = [["road", 5, 1, 0], [EVIL, 7, 2, 0], ["sky", 0, 0, 0]]
    write_table(folder / "confusion_matrix.csv", ["truth", *CLASSES], counts)
    palette = [(128, 64, 128), (70, 70, 70), (250, 170, 30)]
    write_json(folder / "worst_images.json", plain(samples(EVIL), "mIoU", CLASSES, palette, 9))
    (folder / "config.yaml").write_text(f"model: '{EVIL}'\n", encoding="utf-8")
    return folder


def read(folder):
    return write_run_page(folder).read_text(encoding="utf-8")


def titles(seen):
    return [dict(attributes)["id"] for tag, attributes in seen.elements if tag == "section"]


def test_the_page_has_what_the_run_has_left_and_nothing_dangerous(folder, capsys):
    assert run("report", [str(folder)]) == 0  # the command, which says where the page lies
    assert capsys.readouterr().out.split() == [str(folder / "report.html")]
    text = (folder / "report.html").read_text(encoding="utf-8")
    seen = Seen(text)
    assert list(seen.dangers()) == []
    assert len(text.encode()) < MOST_BYTES
    shown = " ".join(seen.texts)
    for title in ("Result", "Curves", "Classes", "Confusion matrix", "Images", "Run", "loss", "learning rate"):
        assert title in shown
    for words in ("best, step 20", "1 min 01 s", "torch 2.9", "fit --config", "2 images of 9", "calibration"):
        assert words in shown
    assert "50.00" in shown  # percent
    assert shown.index("25.00") < shown.index("IoU at most")  # the lowest class, before the images
    assert shown.count(EVIL) > 8


def test_a_page_is_drawn_of_whatever_is_there(folder, tmp_path):
    whole = set(titles(Seen(read(folder))))
    for name in [path.name for path in folder.iterdir() if path.name != "report.html"]:
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).unlink()
        assert len(titles(Seen(read(tmp_path / name)))) >= len(whole) - 2
    with pytest.raises(InputError, match=r"neither metrics\.json nor metrics\.csv; give the folder of a run"):
        write_run_page(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", '{"best": {"summary": 3}}'),
        ("metrics.csv", "step,val/a\n3,x\n"),
        ("worst_images.json", "{}"),
        ("worst_images.json", "[3]"),
        ("confusion_matrix.csv", "truth,a\na,1,2\n"),
        ("confusion_matrix.csv", ""),
        ("config.yaml", "\xff"),
    ],
)
def test_a_damaged_file_is_named(folder, tmp_path, name, content):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        write_run_page(tmp_path / "run")


def test_a_page_stays_small_whatever_the_images_are(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    content = json.loads((folder / "worst_images.json").read_text(encoding="utf-8"))
    sample = {**content["samples"][0], "image": "A" * 1_500_000}
    sample["prediction"]["boxes"] *= 300
    write_json(tmp_path / "run" / "worst_images.json", {**content, "samples": [sample] * 9})
    text = read(tmp_path / "run")
    assert len(text.encode()) < MOST_BYTES
    assert "5 more are too large for this page" in text


def test_a_table_of_many_images_is_cut(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    write_table(tmp_path / "run" / "per_image.csv", ["name", "mIoU"], ([f"{i:06}", i / 999] for i in range(999)))
    seen = Seen(read(tmp_path / "run"))
    assert "000049" in seen.texts
    assert "000050" not in seen.texts
    assert any("the worst 50 of 999" in text for text in seen.texts)
    with open(tmp_path / "run" / "per_image.csv", newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.reader(file)) == 1000


def test_a_long_curve_is_drawn_shortly(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    losses = 1 + np.random.default_rng(0).random(20_000)
    write_table(tmp_path / "run" / "metrics.csv", ["step", "train/loss"], enumerate(losses.tolist()))
    assert len(read(tmp_path / "run")) < 60_000 + len(read(folder))
