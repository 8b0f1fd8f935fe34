"""Schedules against the formulas of mmcv 0.x, and against mmengine."""

import math

import numpy as np
import pytest
import torch
from mmengine.optim import LinearLR, PolyLR

from lk_downstream.optim import Cosine, MultiStep, Poly
from lk_downstream.optim.schedules import catch_up


def optimizer(lr=2e-4):
    tensors = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD([{"params": tensors[:1]}, {"params": tensors[1:], "lr": lr / 2}], lr=lr)


def rates(schedule, steps):
    values = []
    for _ in range(steps):
        values.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return values


def test_poly_decays_during_the_warm_up_as_mmcv_did():
    found = rates(Poly(optimizer(), 100, warmup_steps=10), 100)
    for step, (rate, half) in enumerate(found):
        expected = 2e-4 * (1 - step / 100)
        if step < 10:
            expected *= 1 - (1 - step / 10) * (1 - 1e-6)
        assert rate == pytest.approx(expected, rel=1e-9)
        assert half == pytest.approx(expected / 2, rel=1e-9)


def test_poly_in_the_form_of_mmengine():
    sgd = optimizer()
    theirs = [
        LinearLR(sgd, start_factor=1e-6, begin=0, end=10, by_epoch=False),
        PolyLR(sgd, power=1.0, begin=10, end=100, eta_min=0.0, by_epoch=False),
    ]
    ours = rates(Poly(optimizer(), 100, warmup_steps=10, form="mmengine"), 100)
    for step in range(100):
        assert ours[step][0] == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9, abs=1e-16), step
        sgd.step()
        for scheduler in theirs:
            scheduler.step()


def test_cosine_ends_at_its_floor():
    found = [rate for rate, _ in rates(Cosine(optimizer(), 50, warmup_steps=5, min_ratio=0.1), 51)]
    assert found[0] == 0
    assert found[5] == pytest.approx(2e-4)
    assert found[28] == pytest.approx(2e-4 * (0.1 + 0.9 * (1 + math.cos(math.pi * 23 / 45)) / 2))
    assert found[50] == pytest.approx(2e-5)


def test_cosine_is_the_table_of_the_authors():
    """utils.py of ConvNeXt, RepLKNet and SLaK: a table of all rates, made before the training."""
    base, last, steps, warmup = 4e-3, 1e-6, 60, 12
    table = np.linspace(0, base, warmup)
    rest = np.arange(steps - warmup)
    table = np.concatenate([table, last + 0.5 * (base - last) * (1 + np.cos(np.pi * rest / len(rest)))])
    found = [rate for rate, _ in rates(Cosine(optimizer(base), steps, warmup, min_ratio=last / base), steps)]
    np.testing.assert_allclose(found, table, rtol=1e-12, atol=1e-18)


def test_multi_step_falls_at_fractions_of_the_run():
    found = [rate for rate, _ in rates(MultiStep(optimizer(), 36, milestones=[27 / 36, 33 / 36]), 36)]
    assert [round(math.log10(rate / 2e-4)) for rate in found] == [0] * 27 + [-1] * 6 + [-2] * 3


def test_constant_warmup():
    schedule = MultiStep(optimizer(), 36, warmup_steps=3, warmup_ratio=1 / 3, warmup_form="constant")
    assert [schedule.factor(step) for step in range(5)] == [1 / 3, 1 / 3, 1 / 3, 1, 1]


def test_a_resumed_schedule_goes_on():
    whole = rates(Poly(optimizer(), 20, warmup_steps=4), 20)
    first = Poly(optimizer(), 20, warmup_steps=4)
    rates(first, 7)
    second = Poly(optimizer(), 20, warmup_steps=4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates(second, 13) == whole[7:]


SCHEDULES = [
    lambda optimizer: Poly(optimizer, 20, warmup_steps=3),
    lambda optimizer: Cosine(optimizer, 20, warmup_steps=5, min_ratio=0.1),
    lambda optimizer: MultiStep(optimizer, 20, warmup_steps=2),
    lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
    lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=20),
    lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 4),
]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_schedule_that_catches_up_is_the_one_that_was_there(make, step):
    whole = rates(make(optimizer()), 15)
    schedule = make(optimizer())
    catch_up(schedule, step)
    assert rates(schedule, 15 - step) == whole[step:]
