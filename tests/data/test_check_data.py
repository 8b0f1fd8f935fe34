import numpy as np
import pytest
from PIL import Image

from lk_downstream.commands import run
from lk_downstream.commands.check_data import check
from lk_downstream.data import ADE20K, SegmentationFolder, Synthetic
from lk_downstream.data.check import check_dataset
from lk_downstream.errors import InputError


def test_report(tmp_path):
    ADE20K("train", str(tmp_path / "ade")).write_synthetic(Synthetic(train=9, val=1, size=(40, 48)))
    report = check_dataset(ADE20K("train", str(tmp_path / "ade")), count=5)
    assert report.samples == 5
    assert report.problems == []
    assert report.pixels.sum() == 5 * 40 * 48
    text = str(report)
    assert "ADE20K training: 9 pictures, 5 of them read" in text
    assert "(unlabelled)" in text
    assert "sky" in text
    assert "142 of 150 classes not seen: wall, floor" in text


def test_problems_are_collected(tmp_path):
    for name, values in (("a", [[0, 1]]), ("b", [[5, 1]])):
        for folder in ("images", "annotations"):
            (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((1, 2, 3), np.uint8)).save(tmp_path / f"images/train/{name}.png")
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / f"annotations/train/{name}.png")
    report = check_dataset(SegmentationFolder("train", str(tmp_path), classes=["x", "y"]))
    assert len(report.problems) == 1
    assert "b.png has the label values 5 outside the 2 classes" in report.problems[0]
    assert "    5  OUTSIDE THE CLASSES" in str(report)


def test_command(tmp_path, capsys):
    root = str(tmp_path / "ade")
    ADE20K("val", root).write_synthetic(Synthetic(train=1, val=3, size=(40, 48)))
    assert check(lambda split: ADE20K(split, root), "val") == 0
    assert "ADE20K validation: 3 pictures" in capsys.readouterr().out
    assert check(lambda split: SegmentationFolder(split, root, classes=["x"]), "validation") == 1
    assert "problem: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--dataset ADE20K --dataset.root nowhere", "there is no folder nowhere/images/training"),
        ("--dataset SegmentationFolde", "there is no class 'SegmentationFolde'; did you mean 'SegmentationFolder'?"),
        ("--dataset ADE20K --dataset.rot x", "ADE20K has no option 'rot'; did you mean 'root'?"),
        ("", "required: dataset"),
    ],
)
def test_a_mistake_gets_a_sentence(args, words, capsys):
    assert run("check-data", args.split()) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert words in printed


def test_a_count_of_nothing(tmp_path):
    with pytest.raises(InputError, match="count is 0"):
        check_dataset(ADE20K("train", str(tmp_path)), count=0)
