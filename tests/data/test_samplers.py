from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lk_downstream.data.samplers import EvaluationSampler, TrainingSampler


@pytest.mark.parametrize(("length", "world_size"), [(7, 2), (8, 2), (5, 3), (2, 4), (0, 2)])
def test_evaluation_covers_every_index_once(length, world_size):
    parts = [list(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)]
    assert sorted(chain(*parts)) == list(range(length))
    assert [len(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)] == [len(p) for p in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@st.composite
def settings_of_samplers(draw):
    length, world_size = draw(st.integers(1, 60)), draw(st.integers(1, 4))
    batch_size = world_size * draw(st.integers(1, 8))
    repeat = draw(st.integers(-(-batch_size // length), -(-batch_size // length) + 2))
    groups = draw(st.none() | st.lists(st.integers(0, 2), min_size=length, max_size=length))
    return {
        "length": length,
        "batch_size": batch_size,
        "seed": draw(st.integers(0, 3)),
        "repeat": repeat,
        "groups": groups,
    }, world_size


def epochs(options, world_size, count):
    """For each epoch the indices of each step, of all processes together, and all draws."""
    samplers = [TrainingSampler(**options, rank=rank, world_size=world_size) for rank in range(world_size)]
    share = options["batch_size"] // world_size
    for epoch in range(count):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [list(sampler) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers]
        assert all(len(part) % share == 0 for part in parts)
        for step in range(len(parts[0]) // share):
            yield [item for part in parts for item in part[step * share : (step + 1) * share]]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(settings_of_samplers())
def test_every_step_is_a_whole_batch_and_every_sample_is_drawn_equally_often(drawn):
    options, world_size = drawn
    steps = list(epochs(options, world_size, 8))
    size, passed = options["batch_size"], options["length"] * options["repeat"]
    assert {len(step) for step in steps} == {size}
    draws = [place for step in steps for _, (_, place) in step]
    assert sorted(draws) == list(range(len(steps) * size))  # no two augmentations are of the same random numbers
    # After a whole number of passes what is missing or too much is the batch that lies between two of them.
    passes = len(steps) * size // passed
    for number in range(1, passes + 1):
        used = Counter(index for step in steps[: -(-number * passed // size)] for index, _ in step)
        times = options["repeat"] * number
        assert min(used[index] for index in range(options["length"])) >= times
        assert sum(used.values()) - times * options["length"] < size


@settings(derandomize=True, deadline=None, max_examples=100)
@given(settings_of_samplers(), st.integers(0, 30))
def test_the_order_knows_nothing_of_processes_epochs_and_stops(drawn, step):
    options, world_size = drawn
    together = [sorted(batch) for batch in epochs(options, world_size, 4)]
    alone = [sorted(batch) for batch in epochs(options, 1, 4)]
    assert together == alone
    step %= len(alone)
    resumed, size = TrainingSampler(**options), options["batch_size"]
    resumed.resume(step)
    rest = list(resumed)
    rest = [sorted(rest[first : first + size]) for first in range(0, len(rest), size)]
    assert rest == alone[step : step - step % resumed.epoch_steps + resumed.epoch_steps]
    assert len(list(resumed)) == len(resumed)  # that was for once


def test_an_order_depends_on_its_seed():
    first = [index for index, _ in TrainingSampler(50, 5, seed=1)]
    assert first == [index for index, _ in TrainingSampler(50, 5, seed=1)]
    assert first != [index for index, _ in TrainingSampler(50, 5, seed=2)]
    again = TrainingSampler(50, 5, seed=1)
    again.set_epoch(1)
    assert first != [index for index, _ in again]


@pytest.mark.parametrize("repeat", [1, 3])
def test_batches_of_one_group(repeat):
    groups = np.arange(50) % 3 == 0
    options = {"length": 50, "batch_size": 4, "seed": 5, "repeat": repeat, "groups": groups}
    steps = list(epochs(options, 2, 6))
    mixed = sum(len({groups[index] for index, _ in step}) > 1 for step in steps)
    assert mixed <= 2 * 6  # at the end of a pass, and between two


def test_a_rare_group_is_drawn_in_every_pass():
    groups = [True] * 41 + [False] * 3
    steps = list(epochs({"length": 44, "batch_size": 8, "groups": groups}, 1, 100))
    used = Counter(index for step in steps for index, _ in step)
    assert max(used.values()) - min(used[index] for index in range(44)) <= 1


def test_short_epochs_go_on_where_the_last_has_ended():
    whole, short = TrainingSampler(40, 4), TrainingSampler(40, 4, epoch_steps=3)
    order = list(whole)
    assert list(short) == order[:12]
    short.set_epoch(1)
    assert list(short) == order[12:24]
