from itertools import chain

import pytest

from lk_downstream.data.samplers import EvaluationSampler, TrainingSampler


@pytest.mark.parametrize(("length", "world_size"), [(7, 2), (8, 2), (5, 3), (2, 4), (0, 2)])
def test_evaluation_covers_every_index_once(length, world_size):
    parts = [list(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)]
    assert sorted(chain(*parts)) == list(range(length))
    assert [len(EvaluationSampler(length, rank, world_size)) for rank in range(world_size)] == [len(p) for p in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("length", "world_size", "repeat"), [(7, 2, 1), (12, 3, 1), (5, 4, 3), (3, 1, 4)])
def test_training_shares_an_epoch_without_repeating(length, world_size, repeat):
    samplers = [TrainingSampler(length, rank, world_size, seed=3, repeat=repeat) for rank in range(world_size)]
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {length * repeat // world_size} == {len(sampler) for sampler in samplers}
    dealt = list(chain(*parts))
    assert max(dealt.count(index) for index in range(length)) <= repeat
    assert length * repeat - len(dealt) < world_size


def test_training_order_depends_on_seed_and_epoch_alone():
    sampler, again = TrainingSampler(50, seed=1), TrainingSampler(50, seed=1)
    first = list(sampler)
    assert list(sampler) == first == list(again)
    again.set_epoch(4)
    assert list(again) != first
    sampler.set_epoch(4)
    assert list(sampler) == list(again)
    assert list(TrainingSampler(50, seed=2)) != first


def test_every_pass_has_its_own_order():
    order = list(TrainingSampler(20, repeat=2))
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert order[:20] != order[20:]
