"""The settings of a class, in a form that can be read, wherever help is asked for."""

import pytest

from lk_downstream.class_help import _split
from lk_downstream.cli import main

DEMO = ["--config", "configs/demo_segmentation.yaml"]


@pytest.fixture(autouse=True)
def _where_the_configs_are(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)


def helped(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main("fit", words)
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("task", ["Segmentation", "Detection", "Classification"])
def test_the_settings_of_a_task(capsys, task):
    text = helped(capsys, ["--model.help", task])
    assert "--model.backbone" in text
    assert "--model.optimizer" in text
    assert text.count(f"lk_downstream.tasks.{task}") == 1
    assert len(text.splitlines()) < 100  # and not thousands of lines with every module of PyTorch
    assert ".help [" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.help"], "Help for --model.help=lk_downstream.tasks.Segmentation"),
        (["--data.help"], "Help for --data.help=lk_downstream.data.SegmentationData"),
        (["--model.head.help"], "Width of every layer of the head"),
        (["--model.head.help", "lk_downstream.heads.FCNHead"], "FCNHead"),
        (["--model.head.help=lk_downstream.heads.FCNHead"], "FCNHead"),
        (["--data.dataset.help"], "leftImg8bit"),
        (["--data.dataset.help", "ADE20K"], "ADE20K"),
        (["--model.optimizer.help"], "--optimizer.betas"),
        (["--model.loss.help"], "Dice                 One minus the Dice"),  # of what is not set, the choices
        (["--model.loss.help", "Dice"], "--loss.class_weight"),
        (["--model.loss.help", "torch.nn.CrossEntropyLoss"], "--loss.label_smoothing"),
        (["--model.backbone.help"], "--model.backbone.drop_path_rate"),  # a function in the place of a class
        (["--model.inference.help", "Slide"], "--inference.stride"),
    ],
)
def test_help_before_the_config(capsys, words, said):
    assert said in helped(capsys, [*words, *DEMO])


@pytest.mark.parametrize("words", [["--model.head.help"], ["--data.dataset.help", "Cityscapes"]])
def test_help_after_the_config_is_the_same(capsys, words):
    assert helped(capsys, [*DEMO, *words]) == helped(capsys, [*words, *DEMO])


def test_help_of_a_nested_class_by_the_classes_alone(capsys):
    for words in (["--data.help", "DetectionData"], ["--data", "DetectionData"]):
        assert "Annotation file, below" in helped(capsys, [*words, "--data.dataset.help", "Coco"])
    assert "Annotation file, below" in helped(capsys, ["--data.dataset.help", "Coco", *words])


def test_all_options(capsys):
    text = helped(capsys, ["--trainer.help"])
    assert "--trainer.max_steps" in text
    assert "--checkpoint.monitor" in text
    assert text.startswith("All options")


@pytest.mark.parametrize(
    ("words", "asked", "others"),
    [
        ("--a 1 --m.help B -- --c", [("m", "B")], "--a 1 -- --c"),
        ("--m.help --a=x.help b.help", [("m", None)], "--a=x.help b.help"),
        ("--m.help=B C --n.help", [("m", "B"), ("n", None)], "C"),
        ("", [], ""),
    ],
)
def test_words_that_ask_for_help(words, asked, others):
    assert _split(words.split()) == (asked, others.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.help"], "--model.help: name a class after it, such as --model.help Segmentation, or a config"),
        (["--model.head.help"], "--model.head.help: name what it belongs to, by --config NAME or --model CLASS"),
        (["--model.help", "Segmentatio"], "--model.help: there is no class 'Segmentatio'; did you mean 'Segmentation'"),
        ([*DEMO, "--model.weights.help"], "--model.weights.help: model.weights is None, no class; name one"),
        ([*DEMO, "--data.batch_size.help"], "--data.batch_size.help: data.batch_size is 8, no class"),
        ([*DEMO, "--data.nothing.help"], "--data.nothing.help: data.nothing is None, no class"),
    ],
)
def test_help_that_cannot_be_given(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main("fit", words)
    assert said in str(stop.value.code)
