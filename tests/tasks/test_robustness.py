"""Robustness: layouts, classes, corruption errors worked out by hand, the command line."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo

from lk_downstream.callbacks.robustness import RobustnessReport, summarize, summarize_cues
from lk_downstream.cli import main
from lk_downstream.data.cue_conflict import CATEGORIES
from lk_downstream.data.robustness import BENCHMARKS, Trees, find_trees
from lk_downstream.errors import InputError
from lk_downstream.metrics.robustness import (
    ALEXNET_ERRORS,
    PartAccuracy,
    ShapeBias,
    corruption_error,
    mean_corruption_error,
)
from lk_downstream.reports.tables import robustness_table

ROOT = Path(__file__).parents[2]
WNIDS = ImageNetInfo("imagenet-1k").label_names()


def make_image(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 48, 3), value, np.uint8)).save(path)


def corrupted(root, corruptions, severities=(1, 2, 3, 4, 5), wnids=WNIDS[:2]):
    for corruption in corruptions:
        for severity in severities:
            for wnid in wnids:
                make_image(root / corruption / str(severity) / wnid / "ILSVRC2012_val_00000293.JPEG")


def test_alexnet_errors_are_the_published_means():
    """Hendrycks and Dietterich 2019, Table 1; six digits in google-research/augmix, imagenet.py."""
    published = {
        "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
        "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
        "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
        "pixelate": 0.717840, "jpeg_compression": 0.606500,
    }  # fmt: skip
    assert {name: math.fsum(values) / 5 for name, values in ALEXNET_ERRORS.items()} == pytest.approx(
        published, abs=1e-9
    )
    assert set(BENCHMARKS["imagenet_c"].corruptions) == set(published)


def test_corruption_errors_by_hand():
    assert corruption_error("fog", dict(zip(range(1, 6), ALEXNET_ERRORS["fog"]))) == 1
    errors = {"brightness": {1: 0.2, 2: 0.4}, "contrast": {5: 0.99270 / 2}}
    assert corruption_error("brightness", errors["brightness"]) == pytest.approx(0.6 / (0.4514 + 0.48502))
    assert mean_corruption_error(errors) == pytest.approx((0.6 / 0.93642 + 0.5) / 2)
    assert math.isnan(mean_corruption_error({}))


def test_logits_are_restricted_to_the_classes_of_a_part():
    metric = PartAccuracy(torch.tensor([[True, True, True, True], [False, True, True, False]]))
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0], [5.0, 1.0, 2.0, 9.0]])
    metric.update(logits, torch.tensor([1, 1, 2]), torch.tensor([0, 1, 1]))  # class 0 wins only where it is allowed
    metric.update(logits[:1], torch.tensor([0]), torch.tensor([0]))
    hits, images = metric.compute()
    assert hits.tolist() == [1, 2]
    assert images.tolist() == [2, 2]


def test_which_classes_compete(tmp_path):
    for key in ("imagenet_a", "imagenet_sketch"):
        for wnid in (WNIDS[6], WNIDS[11]):
            make_image(tmp_path / key / wnid / "0.jpg")
    trees = find_trees({key: str(tmp_path / key) for key in ("imagenet_a", "imagenet_sketch")}, WNIDS)
    choices = RobustnessReport(trees).metric.choices
    assert choices[0].nonzero().flatten().tolist() == [6, 11]  # by the order of all 1000
    assert choices[1].all()  # Sketch has all classes, whichever are there
    assert trees.parts[0].tree.samples[1].tolist() == [6, 11]
    assert trees.missing == {"imagenet_a": ["198 of 200 classes"], "imagenet_sketch": ["998 of 1000 classes"]}


def test_corruptions_are_found_in_both_layouts_and_what_lacks_is_named(tmp_path):
    corrupted(tmp_path / "c" / "noise", ["gaussian_noise"], (1, 5))
    corrupted(tmp_path / "c", ["fog", "speckle_noise"])
    (tmp_path / "c" / "snow" / "3").mkdir(parents=True)  # unpacked halfway
    corrupted(tmp_path / "bar", BENCHMARKS["imagenet_c_bar"].corruptions)
    trees = find_trees({"imagenet_c": str(tmp_path / "c"), "imagenet_c_bar": str(tmp_path / "bar")}, WNIDS[:2])
    found = [(part.corruption, part.severity) for part in trees.parts if part.benchmark == "imagenet_c"]
    assert found == [("gaussian_noise", 1), ("gaussian_noise", 5), *(("fog", severity) for severity in range(1, 6))]
    missing = [name for name in trees.missing["imagenet_c"] if "classes" not in name]
    assert [name for name in missing if "/" in name] == [f"gaussian_noise/{severity}" for severity in (2, 3, 4)]
    whole = [name for name in missing if "/" not in name]
    assert len(whole) == 13
    assert "snow" in whole
    assert trees.missing["imagenet_c"][-1] == "998 of 1000 classes"
    assert len(trees.parts) == 7 + 50
    assert trees.missing["imagenet_c_bar"] == []
    make_image(tmp_path / "c" / "fog" / "5" / WNIDS[2] / "0.JPEG")
    trees = find_trees({"imagenet_c": str(tmp_path / "c")}, WNIDS[:3])
    assert trees.missing["imagenet_c"][-2:] == ["998 of 1000 classes in fog/4", "997 of 1000 classes in fog/5"]


def test_metrics_by_hand_and_the_mark_of_partial_ones(tmp_path):
    corrupted(tmp_path / "c", ["fog", "contrast"], (1, 2))
    corrupted(tmp_path / "bar", ["sparkles", "perlin_noise"])
    make_image(tmp_path / "r" / WNIDS[0] / "0.jpg")
    roots = {"imagenet_r": tmp_path / "r", "imagenet_c": tmp_path / "c", "imagenet_c_bar": tmp_path / "bar"}
    trees = find_trees({key: str(root) for key, root in roots.items()}, WNIDS)
    hits = [3] + [8, 6, 5, 1] + [10, 10, 10, 10, 10, 0, 0, 0, 0, 5]  # fog and contrast in the order of the benchmark
    results = summarize(trees, hits, [4] + [10] * 14)
    assert results["ImageNet-R"]["top1"] == 0.75
    c = results["ImageNet-C"]
    fog, contrast = (0.2 + 0.4) / (0.67474 + 0.7605), (0.5 + 0.9) / (0.64548 + 0.7615)
    assert c["mCE"] == pytest.approx((fog + contrast) / 2)
    assert c["corruptions"]["fog"] == {
        "error": pytest.approx(0.3),
        "CE": pytest.approx(fog),
        "errors": {"1": pytest.approx(0.2), "2": pytest.approx(0.4)},
    }
    assert c["error"] == pytest.approx((0.3 + 0.7) / 2)
    assert {"snow", "fog/3"} <= set(c["missing"])
    bar = results["ImageNet-C-bar"]
    assert bar["error"] == pytest.approx((0 + 0.9) / 2)  # perlin_noise stands before sparkles
    assert "mCE" not in bar
    table = robustness_table(results)
    assert "* ImageNet-C is partial, without gaussian_noise" in str(table.caption)
    assert "ImageNet-C *" in list(table.columns[0].cells)
    whole = summarize(Trees(trees.parts[:1], {"imagenet_r": []}), [3], [4])
    assert "*" not in str(robustness_table(whole).caption)


def test_one_set_alone(tmp_path, capsys):
    make_image(tmp_path / "a" / WNIDS[6] / "0.jpg")
    report, task = RobustnessReport(find_trees({"imagenet_a": str(tmp_path / "a")}, WNIDS)), SimpleNamespace(results={})
    batch = {"label": torch.tensor([6, 6]), "part": torch.tensor([0, 0])}
    report.on_validation_batch_end(None, None, {"prediction": torch.randn(2, 1000)}, batch, 0)
    report.on_validation_end(SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True), task)
    assert report.results["ImageNet-A"] == {
        "top1": 1.0, "images": 2, "classes": 1, "missing": ["199 of 200 classes"],
    }  # fmt: skip
    assert json.loads((tmp_path / "robustness.json").read_text(encoding="utf-8")) == report.results
    shown = capsys.readouterr().out
    assert "100.00" in shown
    assert "CE" not in shown


def test_wrong_folders_are_answered_with_the_expected_tree(tmp_path):
    with pytest.raises(InputError, match="give the folders of test sets by --imagenet_a, --imagenet_r"):
        find_trees({"imagenet_a": None}, WNIDS)
    (tmp_path / "imagenet-c" / "noise").mkdir(parents=True)
    expected = (
        r"imagenet-c holds noise; ImageNet-C is expected as .*/<corruption>/<severity>/<class>/\*.JPEG, such as gau"
    )
    with pytest.raises(InputError, match=expected):
        find_trees({"imagenet_c": str(tmp_path / "imagenet-c")}, WNIDS)
    with pytest.raises(InputError, match=r"--imagenet_r: .*imagenet-d is no folder; .* did you mean 'imagenet-c'"):
        find_trees({"imagenet_r": str(tmp_path / "imagenet-d")}, WNIDS)
    make_image(tmp_path / "a" / WNIDS[0] / "0.jpg")
    (tmp_path / "a" / "cats").mkdir()
    with pytest.raises(InputError, match=r"cats is no class of the model \(1 of 2 folders"):
        find_trees({"imagenet_a": str(tmp_path / "a")}, WNIDS)


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--config", str(ROOT / "configs" / "demo_classification.yaml"), "--data.workers", "0", "--data.size", "32"]
    small += ["--data.synthetic", "{train: 32, val: 12, size: [40, 48]}"]
    cli = main("fit", [*small, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1"])
    run = Path(cli.trainer.log_dir)
    wnids = sorted(path.name for path in Path("data/demo_imagenet/val").iterdir())
    corrupted(tmp_path / "c", ["fog"], (1, 3), wnids)
    for number, wnid in enumerate(wnids[:3]):
        make_image(tmp_path / "a" / wnid / "0.jpg", 60 * number)
    config, checkpoint = str(run / "config.yaml"), str(run / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    make_image(tmp_path / "cue" / "cat" / "cat1-knife3.png")
    sets = ["--imagenet_c", "c", "--imagenet_a", "a", "--cue_conflict", "cue"]
    cli = main("robustness", ["--config", config, "--ckpt_path", checkpoint, *sets])
    assert sorted(path.name for path in (run.parent / "robustness_0").iterdir()) == ["config.yaml", "robustness.json"]
    results = json.loads((run.parent / "robustness_0" / "robustness.json").read_text(encoding="utf-8"))
    # The same by the task itself, image by image.
    task, transform = cli.model.cpu(), cli.datamodule.val_transform
    trees = find_trees({"imagenet_a": "a", "imagenet_c": "c"}, cli.datamodule.train_data.wnids)
    accuracies = []
    for part in trees.parts:
        samples = [part.tree[index] for index in range(len(part.tree))]
        logits = torch.cat([task.logits(transform(sample)["image"][None]) for sample in samples])
        if part.benchmark == "imagenet_a":
            outside = torch.ones(1000, dtype=torch.bool)
            outside[[cli.datamodule.train_data.wnids.index(wnid) for wnid in wnids[:3]]] = False
            logits[:, outside] = -math.inf
        labels = torch.tensor([sample["label"] for sample in samples])
        accuracies.append((logits.argmax(1) == labels).double().mean().item())
    assert results["ImageNet-A"]["top1"] == pytest.approx(accuracies[0])
    assert results["ImageNet-A"]["images"] == 3
    assert results["Cue conflict"]["conflicts"] == results["Cue conflict"]["images"] == 1
    expected = sum(1 - accuracy for accuracy in accuracies[1:]) / (0.67474 + 0.84378)
    assert results["ImageNet-C"]["mCE"] == pytest.approx(expected)
    assert "fog/2" in results["ImageNet-C"]["missing"]
    shown = capsys.readouterr().out
    assert "ImageNet-C is partial" in shown
    assert "robustness.json" in shown
    with pytest.raises(SystemExit, match="robustness needs a trained model: give --ckpt_path FILE"):
        main("robustness", [*small, "--imagenet_a", "a"])
    demo = str(ROOT / "configs" / "demo_segmentation.yaml")
    with pytest.raises(SystemExit, match="robustness is evaluated of classification"):
        main("robustness", ["--config", demo, "--model.weights", checkpoint, "--imagenet_a", "a"])


# ---------------------------------------------------------------- conflicting cues


def test_the_categories_are_the_published_ones():
    """human_categories.py of rgeirhos/texture-vs-shape names them by WordNet ids too, of which some are checked."""
    assert list(CATEGORIES) == sorted(CATEGORIES)
    sizes = {"bird": 49, "dog": 109, "truck": 8, "bottle": 7, "cat": 6, "boat": 5, "bear": 4, "chair": 4}
    sizes |= {"car": 3, "clock": 3, "bicycle": 2, "elephant": 2, "keyboard": 2, "airplane": 1, "knife": 1, "oven": 1}
    assert {name: len(members) for name, members in CATEGORIES.items()} == sizes
    members = [index for indices in CATEGORIES.values() for index in indices]
    assert len(members) == len(set(members))
    assert {name: [WNIDS[index] for index in CATEGORIES[name]] for name in ("knife", "keyboard", "bear", "chair")} == {
        "knife": ["n03041632"],
        "keyboard": ["n03085013", "n04505470"],
        "bear": ["n02132136", "n02133161", "n02134084", "n02134418"],
        "chair": ["n02791124", "n03376595", "n04099969", "n04429376"],
    }


def test_shape_bias_by_hand():
    names = list(CATEGORIES)
    cat, knife, dog = (names.index(name) for name in ("cat", "knife", "dog"))
    metric = ShapeBias(tuple(CATEGORIES.values()), 1000)
    logits = torch.full((6, 1000), -20.0)
    logits[0, 499] = 0.0  # a knife
    logits[1, 281] = 0.0  # a cat
    logits[2, 404] = 0.0  # neither
    logits[3, 499] = logits[3, 281] = 0.0  # as probable as one class of cats, but the mean of six is less
    logits[4, 281] = 0.0
    logits[5, 499] = 0.0
    shape = torch.tensor([cat, cat, cat, cat, cat, 999])  # the fourth has no conflict, the last is of another set
    texture = torch.tensor([knife, knife, knife, knife, cat, -1])
    metric.update(logits, shape, texture)
    metric.update(logits[:1], torch.tensor([knife]), torch.tensor([dog]))
    counts = {name: values.tolist() for name, values in metric.compute().items()}
    assert (counts["shape"][cat], counts["texture"][cat], counts["conflicts"][cat], counts["hits"][cat]) == (1, 2, 4, 2)
    metrics = summarize_cues(counts, images=6)
    assert metrics["shape_bias"] == pytest.approx(2 / 4)
    assert (metrics["shape"], metrics["texture"], metrics["conflicts"]) == (2 / 5, 2 / 5, 5)
    assert metrics["top1"] == 3 / 6
    assert metrics["categories"]["cat"] == pytest.approx(1 / 3)
    assert metrics["categories"]["knife"] == 1
    assert math.isnan(metrics["categories"]["oven"])


def test_images_of_conflicting_cues(tmp_path, capsys):
    for name in ("cat/cat1-knife3.png", "cat/cat2-cat1.png", "oven/oven10-dog2.png"):
        make_image(tmp_path / "cue" / name)
    trees = find_trees({"cue_conflict": str(tmp_path / "cue")}, WNIDS)
    assert trees.missing == {"cue_conflict": ["14 of 16 classes"]}
    names = list(CATEGORIES)
    items = [trees.parts[0].tree[index] for index in range(3)]
    assert [(names[item["label"]], names[item["texture"]]) for item in items] == [
        ("cat", "knife"), ("cat", "cat"), ("oven", "dog"),
    ]  # fmt: skip
    report = RobustnessReport(trees)
    logits = torch.full((3, 1000), -9.0)
    logits[0, 499] = logits[1, 281] = logits[2, 766] = 0.0
    batch = {key: torch.tensor([item[key] for item in items]) for key in ("label", "texture")}
    batch["part"] = torch.zeros(3, dtype=torch.int64)
    report.on_validation_batch_end(None, None, {"prediction": logits}, batch, 0)
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True)
    report.on_validation_end(trainer, SimpleNamespace(results={}))
    metrics = report.results["Cue conflict"]
    assert (metrics["shape_bias"], metrics["top1"], metrics["images"]) == (0.5, pytest.approx(2 / 3), 3)
    written = json.loads((tmp_path / "robustness.json").read_text(encoding="utf-8"))["Cue conflict"]
    assert written["categories"]["oven"] == 1
    assert "50.00" in capsys.readouterr().out
    with pytest.raises(InputError, match="by the 1000 classes of ImageNet, but the model has 2"):
        find_trees({"cue_conflict": str(tmp_path / "cue")}, WNIDS[:2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds nothing; Cue conflict is expected as .*<shape>1-<texture>2.png"):
        find_trees({"cue_conflict": str(tmp_path / "empty")}, WNIDS)
    make_image(tmp_path / "cue" / "cat" / "cat1-knif3.png")
    with pytest.raises(InputError, match=r"cat1-knif3.png is not named after .*did you mean 'knife'"):
        find_trees({"cue_conflict": str(tmp_path / "cue")}, WNIDS)
