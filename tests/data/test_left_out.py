"""The list of damaged files, over several processes and where their number changes."""

import warnings
from pathlib import Path

import pytest
from processes import in_processes

from lk_downstream.data.left_out import LeftOut


def met(rank, folder):
    """What one of several processes has met before it was killed."""
    warnings.simplefilter("ignore")
    left_out = LeftOut()
    left_out.begin(folder)
    left_out.note([f"{rank}.png is truncated", "common.png is truncated"])


def test_a_checkpoint_of_the_first_process_knows_what_the_others_have_met(tmp_path):
    in_processes(3, met, str(tmp_path / "run_0"))
    expected = ["0.png is truncated", "1.png is truncated", "2.png is truncated", "common.png is truncated"]
    first = LeftOut()
    first.begin(tmp_path / "run_0")
    assert first.all() == expected
    resumed = LeftOut()  # on another number of processes, in another folder
    resumed.sentences = dict.fromkeys(first.all())
    resumed.begin(tmp_path / "run_1")
    with pytest.warns(match="left out: 4.png"):
        resumed.note(["2.png is truncated", "4.png is truncated"])
    resumed.show(resumed.all())
    assert (tmp_path / "run_1" / "left_out.txt").read_text(encoding="utf-8").splitlines() == [
        *expected[:3],
        "4.png is truncated",
        expected[3],
    ]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left_out = LeftOut()
    left_out.begin(None)
    with pytest.warns(match="left out: a.png"):
        left_out.note(["a.png is truncated"])
    left_out.show(left_out.all())
    assert not list(Path().iterdir())
