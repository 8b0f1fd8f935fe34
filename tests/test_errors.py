"""Errors in one sentence."""

from lk_downstream.errors import InputError, near_names


def test_near_names():
    assert near_names("slak_tny", ["slak_tiny", "resnet50"]) == "; did you mean 'slak_tiny'?"
    assert near_names("zzz", ["slak_tiny"]) == ""


def test_the_sentence_of_a_loader_worker():
    text = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback ...\nlk.InputError: a.png is short\n"
    assert str(InputError(text)) == "a.png is short"
