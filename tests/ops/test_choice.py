"""The measured choice: by a clock of its own here, so that no test depends on time."""

import pytest
import torch

from lk_downstream.ops import choice
from lk_downstream.ops.choice import CHOICES, FAILURES, Candidate, bucket, fastest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Each candidate's result says how many seconds it took."""
    monkeypatch.setattr(choice, "CHOICES", {})
    monkeypatch.setattr(choice, "FAILURES", {})
    monkeypatch.setattr(choice, "seconds", lambda run, device: (float(result := run()), result))


def taking(name, *times, **options):
    left = list(times)
    return Candidate(name, lambda: torch.tensor(left.pop(0) if len(left) > 1 else left[0]), **options)


def failing(name, error):
    def run():
        raise error

    return Candidate(name, run)


def test_the_smallest_time_of_a_few_runs_decides():
    out = fastest("key", [taking("even", 0.5), taking("disturbed", 0.9, 0.8, 0.1)], CPU)
    assert choice.CHOICES["key"].name == "disturbed"
    assert choice.CHOICES["key"].seconds == {"even": 0.5, "disturbed": pytest.approx(0.1)}
    assert out.item() in (pytest.approx(0.9), pytest.approx(0.1))


def test_a_hopeless_candidate_is_only_sampled():
    slow = taking("slow", 100.0, sample=lambda: torch.tensor(1.0), share=100)
    fastest("key", [taking("fast", 0.5), slow], CPU)
    assert choice.CHOICES["key"].seconds == {"fast": 0.5, "slow": float("inf")}
    fair = taking("fair", 0.2, sample=lambda: torch.tensor(0.01), share=20)
    fastest("other", [taking("fast", 0.5), fair], CPU)
    assert choice.CHOICES["other"].name == "fair"


def test_a_candidate_that_fails_is_left_out_and_told():
    fastest("key", [failing("broken", RuntimeError("out of memory\ndetails")), taking("works", 0.5)], CPU)
    assert choice.CHOICES["key"].name == "works"
    assert choice.FAILURES == {"broken": "RuntimeError: out of memory"}
    with pytest.raises(RuntimeError, match="out of memory"):
        fastest("other", [failing("broken", RuntimeError("out of memory"))], CPU)


def test_close_sizes_share_a_bucket():
    assert bucket(56) == bucket(57) != bucket(112)
    assert bucket(0) == bucket(1) == 0


def test_choices_can_be_forgotten():
    fastest("key", [taking("a", 0.5)], CPU)
    choice.clear()
    assert not choice.CHOICES
    assert isinstance(CHOICES, dict)
    assert isinstance(FAILURES, dict)
