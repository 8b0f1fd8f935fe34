"""Moments from a checkpoint go to their parameters by name; options are the config's."""

import copy

import pytest
import torch
from torch import nn

from lk_downstream.errors import InputError
from lk_downstream.optim import ParameterGroups


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def trained(**options):
    net = model()
    optimizer = ParameterGroups(**options).optimizer(net, lambda groups: torch.optim.AdamW(groups, lr=0.1))
    for _ in range(3):
        net(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return optimizer, {names[id(parameter)]: state for parameter, state in optimizer.state.items()}


def resumed(saved, factory=torch.optim.AdamW, **options):
    net = model()
    optimizer = ParameterGroups(**options).optimizer(net, lambda groups: factory(groups, lr=0.5))
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(copy.deepcopy(saved))
    after = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    assert after == own
    return {name: optimizer.state[parameter] for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"no_decay": "nothing"}, {"no_decay": "norms"}])
def test_by_name_however_they_are_grouped(options):
    optimizer, states = trained()
    torch.testing.assert_close(resumed(optimizer.state_dict(), **options), states, rtol=0, atol=0)


def test_of_an_older_version():
    optimizer, states = trained()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["param_names"], group["optimizer"]
    torch.testing.assert_close(resumed(saved), states, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"grouped otherwise, and it does not name them: leave model\.groups"):
        resumed(saved, no_decay="nothing")


def test_of_another_optimizer():
    with pytest.raises(InputError, match=r"trained with AdamW, whose state SGD cannot take: set --model"):
        resumed(trained()[0].state_dict(), torch.optim.SGD)
