"""An optimizer's state from a checkpoint, under the options of its own config."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from lk_downstream.errors import InputError


def keep_options(optimizer: Optimizer, names: list[list[str]]) -> None:
    """Let an optimizer keep its options (learning rate, weight decay, betas) when it takes the moments of another.

    The moments go to the parameters that they are of, by name, also where the parameters are grouped otherwise now.

    Args:
        optimizer: It will save and load the names beside its state.
        names: Those of the parameters of each group.
    """
    for group, tensors in zip(optimizer.param_groups, names):
        group["param_names"], group["optimizer"] = tensors, type(optimizer).__name__
    optimizer.register_load_state_dict_pre_hook(_with_own_options)


def _with_own_options(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    own = optimizer.state_dict()["param_groups"]
    theirs = saved["param_groups"]
    kind, other = type(optimizer).__name__, theirs[0].get("optimizer")
    if other not in (None, kind):
        raise InputError(
            f"--ckpt_path: the checkpoint was trained with {other}, whose state {kind} cannot take: set "
            f"--model.optimizer {other}, or start a new training from it by --model.weights"
        )
    named = theirs
    if not all("param_names" in group for group in theirs):  # of an older version: by their order, in equal groups
        named = own
        if [len(group["params"]) for group in own] != [len(group["params"]) for group in theirs]:
            raise InputError(
                "--ckpt_path: the parameters of the checkpoint's optimizer are grouped otherwise, and it does not name "
                "them: leave model.groups as they were, or start a new training from it by --model.weights"
            )
    numbers = {
        name: number
        for group, saved_group in zip(named, theirs)
        for name, number in zip(group["param_names"], saved_group["params"])
    }
    state = {
        number: saved["state"][numbers[name]]
        for group in own
        for name, number in zip(group["param_names"], group["params"])
        if numbers.get(name) in saved["state"]
    }
    return {"state": state, "param_groups": own}
