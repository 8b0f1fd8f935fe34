"""The measured choice: by a clock of its own here, so that no test depends on time."""

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from lk_downstream.ops import choice
from lk_downstream.ops.choice import Candidate, bucket, fastest, is_out_of_memory

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each candidate's result says how many seconds it took, by which this clock advances."""
    now = SimpleNamespace(seconds=0.0)

    def seconds(run, device):
        taken = float(run())
        now.seconds += taken
        return taken

    for table in ("CHOICES", "FAILURES", "SETTLED"):
        monkeypatch.setattr(choice, table, {})
    monkeypatch.setattr(choice, "seconds", seconds)
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def taking(name, *times, **options):
    left = list(times)
    return Candidate(name, lambda: torch.tensor(left.pop(0) if len(left) > 1 else left[0]), **options)


def failing(name, error):
    def run():
        raise error

    return Candidate(name, run)


def test_the_smallest_time_of_a_few_runs_decides():
    out = fastest("key", [taking("even", 0.05), taking("disturbed", 0.09, 0.08, 0.01)], CPU)
    assert choice.CHOICES["key"].name == "disturbed"
    assert choice.CHOICES["key"].seconds == {"even": pytest.approx(0.05), "disturbed": pytest.approx(0.01)}
    assert out.item() == pytest.approx(0.01)


def test_a_hopeless_candidate_is_only_sampled():
    slow = taking("slow", 100.0, sample=lambda: torch.tensor(1.0), share=100, doubtful=True)
    fast = taking("fast", 0.5, sample=lambda: torch.tensor(0.005), share=100)
    fastest("key", [fast, slow], CPU)
    assert choice.CHOICES["key"].seconds == {"fast": 0.5, "slow": float("inf")}
    fair = taking("fair", 0.2, sample=lambda: torch.tensor(0.01), share=20, doubtful=True)
    fastest("other", [taking("fast", 0.5), fair], CPU)
    assert choice.CHOICES["other"].name == "fair"


def test_a_candidate_whose_sample_was_disturbed_is_no_hopeless_one():
    """A busy core may lengthen a short run as much as a long one."""
    once = taking("once", 0.2, sample=taking("", 0.03, 0.2, 0.03, 0.002).run, share=100, doubtful=True)
    fastest("key", [taking("fast", 0.5), once], CPU)
    assert choice.CHOICES["key"].name == "once"
    always = taking("always", 0.2, sample=lambda: torch.tensor(0.03), share=100, doubtful=True)
    fastest("other", [taking("fast", 0.5, sample=lambda: torch.tensor(0.03)), always], CPU)
    assert choice.CHOICES["other"].name == "always"


def test_a_candidate_that_fails_is_left_out_for_its_shape_and_told():
    fastest("key", [failing("broken", RuntimeError("not implemented\ndetails")), taking("works", 0.5)], CPU)
    assert choice.CHOICES["key"].name == "works"
    assert choice.FAILURES == {("key", "broken"): "RuntimeError: not implemented"}
    fastest("other", [taking("broken", 0.1), taking("works", 0.5)], CPU)
    assert choice.CHOICES["other"].name == "broken"
    with pytest.raises(RuntimeError, match="not implemented"):
        fastest("third", [failing("broken", RuntimeError("not implemented"))], CPU)
    assert "third" not in choice.CHOICES


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_short_memory_is_not_held_against_a_candidate(error, clock):
    assert is_out_of_memory(error)
    fastest("key", [failing("large", error), taking("small", 0.5)], torch.device("cpu"))
    assert choice.CHOICES["key"].name == "small"
    assert not choice.FAILURES
    clock.seconds = choice.CHOICES["key"].due
    fastest("key", [taking("large", 0.1), taking("small", 0.5)], CPU)
    assert choice.CHOICES["key"].name == "large"


def test_one_result_is_alive_at_a_time():
    """Neither losers' results, nor what the frames of a failed candidate hold, are there when the next one runs."""
    alive, most = [], []

    def result(value):
        tensor = torch.tensor(value)
        alive.append(weakref.ref(tensor))
        most.append(sum(reference() is not None for reference in alive))
        return tensor

    def fails():
        held = result(0.5)
        raise RuntimeError(f"no kernel for {held.shape}")

    candidates = [Candidate("first", lambda: result(0.5)), Candidate("fails", fails)]
    candidates += [Candidate(str(value), lambda value=value: result(value)) for value in (0.4, 0.6, 0.3)]
    gc.disable()
    try:
        out = fastest("key", candidates, CPU)
    finally:
        gc.enable()
    assert out.item() == pytest.approx(0.3)
    assert max(most) == 1


def test_a_choice_is_measured_again_at_doubling_intervals(clock):
    """What a busy machine made slow is found when it is idle."""
    fastest("key", [taking("fft", 0.157), taking("direct", 0.02)], CPU)
    first = choice.CHOICES["key"]
    assert first.name == "direct"
    clock.seconds = first.due - 1
    fastest("key", [taking("fft", 0.006), taking("direct", 0.02)], CPU)
    assert choice.CHOICES["key"] is first
    began = clock.seconds = first.due
    fastest("key", [taking("fft", 0.006), taking("direct", 0.02)], CPU)
    second = choice.CHOICES["key"]
    assert second.name == "fft"
    assert second.measured == 2
    assert second.due - began > 1.9 * choice.AGAIN


def test_measuring_again_costs_a_small_share(clock):
    fastest("key", [taking("a", 5.0), taking("b", 7.0)], CPU)
    assert choice.CHOICES["key"].due > 100 * clock.seconds


def test_a_choice_that_turns_out_slow_is_measured_sooner(clock, caplog, monkeypatch):
    monkeypatch.setattr(choice, "_told", set())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    caplog.set_level("INFO", logger="lk_downstream")
    fastest("key", [taking("fft", 0.006), taking("direct", 0.02)], CPU)
    made = choice.CHOICES["key"]

    def call(taken):
        began = clock.seconds
        clock.seconds += taken
        made.used(began)

    for _ in range(2):  # two disturbed calls say nothing, if the next is as fast as ever
        call(0.157)
    call(0.007)
    assert made.due > made.soonest
    assert not caplog.messages
    for _ in range(3):
        call(0.157)
    assert made.due == made.soonest
    assert "OMP_WAIT_POLICY" in caplog.text
    clock.seconds = made.due
    fastest("key", [taking("fft", 0.157), taking("direct", 0.02)], CPU)
    assert choice.CHOICES["key"].name == "direct"


def test_threads_measure_one_at_a_time_and_once():
    measured = []

    def run(value):
        measured.append(1)
        return torch.tensor(value)

    def work(number):
        fastest(number % 2, [Candidate("a", lambda: run(0.5)), Candidate("b", lambda: run(5.0))], CPU)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(choice.CHOICES) == [0, 1]
    assert len(measured) == 2 * 2 + 16  # each candidate once for each key, and the winner for each caller


def test_close_sizes_share_a_bucket():
    assert bucket(56) == bucket(57) != bucket(112)
    assert bucket(0) == bucket(1) == 0


def test_choices_can_be_forgotten():
    fastest("key", [taking("a", 0.5)], CPU)
    choice.clear()
    assert not choice.CHOICES
