"""A trained task from its checkpoint alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser

from lk_downstream.backbones.files import read
from lk_downstream.backbones.weights import load_weights
from lk_downstream.errors import InputError
from lk_downstream.tasks.base import Task

TRUSTED = ("lk_downstream.", "torch.")


def load_task(path: str | os.PathLike) -> Task:
    """The task that a run of the command line has saved, in eval mode on the CPU.

    Args:
        path: A checkpoint, such as ``runs/demo_segmentation/run_0/checkpoints/last.ckpt``.

    Raises:
        InputError: It is no checkpoint of this package, or its recipe names classes of other packages, which are not
            imported on the word of a file; start with its ``config.yaml`` and ``--ckpt_path`` instead.
    """
    content = read(path)
    recipe = content.get("recipe")
    if not recipe:
        raise InputError(f"{path} holds no recipe: it is no checkpoint of this package's command line")
    for name in _class_paths(recipe):
        if not name.startswith(TRUSTED):
            raise InputError(f"{path} names {name}, a class of another package; use its config and --ckpt_path")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "task")
    task = parser.instantiate_classes(parser.parse_object({"task": recipe})).task
    task.recipe = recipe
    load_weights(task, content["state_dict"], verbose=False)
    return task.eval()


def _class_paths(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        if "class_path" in content:
            yield str(content["class_path"])
        content = list(content.values())
    if isinstance(content, list):
        for value in content:
            yield from _class_paths(value)
