"""A trained task from its checkpoint alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from jsonargparse import ArgumentParser

from lk_downstream.backbones.files import read
from lk_downstream.backbones.weights import load_weights
from lk_downstream.errors import InputError
from lk_downstream.tasks.base import Task
from lk_downstream.tasks.checkpoint_format import check_format
from lk_downstream.trust_recipes import check_recipe


def load_task(path: str | os.PathLike, trusted: Iterable[str] = ()) -> Task:
    """The task that a run of the command line has saved, in eval mode on the CPU; see :func:`task_of`.

    Args:
        path: A checkpoint, such as ``runs/demo_segmentation/run_0/checkpoints/last.ckpt``.
        trusted: Full names of other classes that the recipe may name, such as those of your own heads and losses.
    """
    return task_of(read(path), path, trusted)


def task_of(content: dict[str, Any], label: str | os.PathLike, trusted: Iterable[str] = ()) -> Task:
    """The task of what a checkpoint holds, in eval mode on the CPU.

    It is taken as data: the recipe may name the classes of ``lk_downstream.trust_recipes`` alone, and nothing is
    fetched.

    Args:
        content: Its ``recipe`` and ``state_dict``.
        label: What it is called in messages.
        trusted: Full names of other classes that the recipe may name.

    Raises:
        InputError: It is no checkpoint of this package, its recipe names other classes, or does not fit its weights.
    """
    check_format(content, label)
    recipe, state = content.get("recipe"), content.get("state_dict")
    if not isinstance(recipe, dict) or not recipe or not isinstance(state, dict):
        raise InputError(f"{label} holds no recipe: it is no checkpoint of this package's command line")
    try:
        check_recipe(recipe, trusted)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Task, "task")
        settings = parser.parse_object({"task": recipe})
        check_recipe(settings.clone().as_dict()["task"], trusted)  # with the names that stand for classes resolved
        with torch.device("meta"):  # without memory: the sizes, too, are of the file's choice
            sizes = parser.instantiate_classes(settings).task.state_dict()
        other = [name for name, tensor in sizes.items() if name not in state or state[name].shape != tensor.shape]
        if other:
            raise InputError(f"has a recipe that does not fit its weights ({len(other)} differ, such as {other[0]})")
        task = parser.instantiate_classes(settings).task
    except InputError as error:
        raise InputError(f"{label} {error}") from error
    except Exception as error:  # whatever settings of other kinds make the parser and the classes raise
        raise InputError(f"{label} has a recipe that makes no model ({str(error).splitlines()[0]:.200})") from error
    task.recipe, task.preparation = recipe, content.get("preparation")
    load_weights(task, state, verbose=False)
    return task.eval()
