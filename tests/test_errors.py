"""Errors in one sentence."""

import pytest
from jsonargparse import ArgumentError

from lk_downstream.errors import InputError, explain, near_names


def test_near_names():
    assert near_names("slak_tny", ["slak_tiny", "resnet50"]) == "; did you mean 'slak_tiny'?"
    assert near_names("zzz", ["slak_tiny"]) == ""


def test_the_sentence_of_a_loader_worker():
    text = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback ...\nlk.InputError: a.png is short\n"
    assert str(InputError(text)) == "a.png is short"


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
    ],
)
def test_the_root_of_a_parser_error(text, words):
    assert words in explain(ArgumentError(None, text), ["trainer.max_steps", "model", "data"])
