import shutil

import numpy as np
import pytest
from PIL import Image

from lk_downstream.commands import run
from lk_downstream.commands.check_data import check
from lk_downstream.data import ADE20K, ClassFolder, Coco, ImageNet, SegmentationFolder, Synthetic
from lk_downstream.data.check import check_dataset
from lk_downstream.errors import InputError


def test_report(tmp_path):
    ADE20K("train", str(tmp_path / "ade")).write_synthetic(Synthetic(train=9, val=1, size=(40, 48)))
    report = check_dataset(ADE20K("train", str(tmp_path / "ade")), count=5)
    assert report.samples == 5
    assert report.problems == []
    assert report.pixels.sum() == 5 * 40 * 48
    text = str(report)
    assert "ADE20K training: 9 images, 5 of them read" in text
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
    assert "ADE20K validation: 3 images" in capsys.readouterr().out
    assert check(lambda split: SegmentationFolder(split, root, classes=["x"]), "validation") == 1
    assert "problem: " in capsys.readouterr().out


def test_objects_and_labels_are_counted(tmp_path, capsys):
    Coco("train", str(tmp_path / "coco")).write_synthetic(Synthetic(train=6, val=2, size=(60, 80)))
    dataset = Coco("train", str(tmp_path / "coco"))
    text = str(check_dataset(dataset, count=3))
    assert "Coco train: 6 images, 3 of them read" in text
    assert "all 80 x 60" in text
    for label, name in enumerate(dataset.classes):
        row = next((line for line in text.splitlines() if line.startswith(f"{name} ")), "").split()
        single = (dataset.index.labels == label) & ~dataset.index.crowd
        assert int(row[-6]) == single.sum() == sum(map(int, row[-5:-2]))
    ImageNet("train", str(tmp_path / "in")).write_synthetic(Synthetic(train=9, val=6, size=(20, 24)))
    root = str(tmp_path / "in")
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    splits = ["train", "val"]
    given = {"sheet": str(sheet), "page": str(page)}
    assert check(lambda split: ImageNet(split, root, complete=False), splits, **given) == 0
    printed = capsys.readouterr().out
    assert "ImageNet val: 6 images" in printed
    assert "994 of 1000 classes not seen" in printed
    assert Image.open(sheet).size[0] > 800
    text = page.read_text(encoding="utf-8")
    assert all(f">{title}</h2>" in text for title in ("Result", "Classes", "train", "val"))
    assert text.count(">all 24 x 20</p>") == 2
    assert "994 of 1000 classes not seen" in text
    assert text.count("data:image/jpeg;base64,") == 2


@pytest.mark.parametrize("change", [None, "resized", "copied"])
def test_images_that_two_splits_share(tmp_path, capsys, change):
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(4):
                coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
                coarse.resize((96, 80), Image.BICUBIC).save(tmp_path / split / name / f"{number}.png")
            colour = (30 + ord(name), 90, 200 - len(split))  # a plain area is like any other, and no duplicate
            Image.new("RGB", (96, 80), colour).save(tmp_path / split / name / f"plain{split}.png")
    first, second = tmp_path / "train/a/0.png", tmp_path / "val/b/9.png"
    if change == "resized":
        Image.open(first).resize((70, 60), Image.BICUBIC).save(second.with_suffix(".jpg"), quality=70)
    elif change == "copied":
        shutil.copy(first, second)
    check(lambda split: ClassFolder(split, str(tmp_path)), ["train", "val"])
    printed = capsys.readouterr().out.replace("\n", " ")
    expected = {"resized": "train and val look the same", "copied": "train and val are the same file"}
    if change:
        assert f"1 images of {expected[change]}" in printed
        assert f"{second.stem}" in printed
    assert printed.count("look the same") == (change == "resized")


@pytest.mark.parametrize("task", ["segmentation", "detection", "classification"])
def test_batches_as_the_network_sees_them(tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    words = ["--config", f"demo_{task}", "--data.synthetic", "{train: 16, val: 2, size: [48, 64]}"]
    words += ["--data.workers", "0", "--show_batches", "batches.png"]
    words += {"segmentation": ["--data.crop_size", "32"], "classification": ["--model.mixup", "0.8"]}.get(task, [])
    words += ["--data.batch_size", "8"]
    with pytest.raises(SystemExit) as stop:
        run("fit", words)
    assert stop.value.code == 0
    assert Image.open("batches.png").size[0] > 1000
    assert "batches.png" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--dataset ADE20K --dataset.root nowhere", "there is no folder nowhere/images/training"),
        ("--dataset SegmentationFolde", "there is no class 'SegmentationFolde'; did you mean 'SegmentationFolder'"),
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
