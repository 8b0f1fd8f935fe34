"""Damaged files of every kind get a sentence with their name: no signal, no hang, no memory beyond a limit."""

import os
import sys

import fuzzing
import pytest

from lk_downstream.data.reading import load_image

# The whole test takes 20 s of a core with 40; some hundreds or thousands are for a quiet hour.
COUNT = int(os.environ.get("LK_FUZZ", 40))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, and /proc for the memory")


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_damaged_files(kind):
    contents = list(fuzzing.inputs(kind, COUNT))
    found = fuzzing.fuzz(kind, contents)
    assert len(found) == COUNT
    assert fuzzing.failures(found) == []
    assert {answer for answers in found for answer in answers} == {"read", "sentence"}  # some were damaged, others not


@pytest.mark.parametrize(
    ("content", "answer"),
    [(b"signal", "signal 11"), (b"hang", "hang"), (b"memory", "memory"), (b"trace", "trace: KeyError"), (b"x", "name")],
)
def test_faults_would_be_found(content, answer, monkeypatch):
    def planted(path):
        def read():
            what = path.read_bytes()
            if what == b"signal":
                os.kill(os.getpid(), 11)
            elif what == b"hang":
                os.read(os.pipe()[0], 1)
            elif what == b"memory":
                bytearray(b"x") * (fuzzing.MEMORY + 2**27)
            elif what == b"trace":
                raise KeyError
            elif what == b"x":
                load_image("other.png")

        yield read

    if answer == "hang":
        monkeypatch.setattr(fuzzing, "SLOW", 1.0)
    monkeypatch.setitem(fuzzing.KINDS, "planted", (planted, ".png", list, None))
    (first, second) = fuzzing.fuzz("planted", [content, b"fine"])
    assert any(text.startswith(answer) for text in first), first
    assert second == ["read"]
