"""What jsonargparse says, in one sentence."""

import pytest
from jsonargparse import ArgumentError

from lk_downstream.errors import InputError
from lk_downstream.parser_errors import explain

LITERALS = """Parser key "trainer.precision":
  Errors:
    - Expected a <class 'int'>
    - Expected a typing.Literal['16', 'bf16-mixed']
    - Expected a typing.Literal['64', '16']
  Given value: bf16-mixd"""


def test_the_cause_of_a_chain():
    error = RuntimeError("around it")
    error.__cause__ = InputError("the root")
    assert explain(error) == "the root"


def test_what_is_not_the_users_mistake_is_left_alone():
    assert explain(KeyError("x")) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unrecognized arguments: --trainer.max_stps 3", "--trainer.max_stps; did you mean 'trainer.max_steps'?"),
        ("unrecognized arguments: --modl.x=3", "no option --modl.x; did you mean 'model'?"),
        ("Parser key \"config\": File does not exist: 'x.yaml'", "File does not exist: 'x.yaml'"),
        ("the following arguments are required: fit.data, fit.model", "as --config demo_segmentation"),
        ('Parser key "model":\n  - Expected a dot import path string: Segmentatio', "did you mean 'Segmentation'?"),
        ("--a.help: Expected a dot import path string: Segmentatio", "--a.help: there is no class 'Segmentatio'"),
        ('Parser key "model":\n  - Expected a dot import path string: Xyz', "give its full path"),
        ('Parser key "model":\n  - Expected a dot import path string: UperHead', "did you mean 'a.UPerHead'?"),
        (
            LITERALS,
            "--trainer.precision is 'bf16-mixd': it must be one of 16, bf16-mixed, 64; did you mean 'bf16-mixed'?",
        ),
        (
            "Does not validate against\n  - Requirement 'wandb' not met\n  - Expected a <class 'bool'>",
            "'wandb' not met",
        ),
        (
            "--model.loss.weight: a dict with parameters accepted by the base class (implicit class_path)",
            "--model.loss.weight takes an object, which no setting can give: take PixelCrossEntropy",
        ),
    ],
)
def test_the_root_of_a_parser_error(text, words):
    classes = {"Segmentation": "Segmentation", "UPerHead": "a.UPerHead"}
    assert words in explain(ArgumentError(None, text), ["trainer.max_steps", "model", "data"], classes)


def test_what_a_class_refuses_when_it_is_made():
    assert explain(ValueError("Does not validate against any of\nErrors:\n  - `p` is too large")) == "`p` is too large"
