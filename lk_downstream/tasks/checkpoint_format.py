"""The format of checkpoints: its number, what changed with each, and how older ones are read.

A checkpoint is Lightning's, with entries of this package beside. The number stands under ``format``; one without it is
of version 1. Of an older one what it lacks is taken to be what it was then; a newer one is refused.
"""

from __future__ import annotations

import os
from typing import Any

from lk_downstream.errors import InputError

KEY = "format"
VERSION = 2
# What came with each version. A change that older programs would read wrongly takes a new number.
CHANGES = {
    1: "`recipe`: class and arguments of the task as plain data; `state_dict`; `current_model_state`: the weights "
    "beside their average",
    2: "`format`, this number; `preparation`: how images are resized for the network, the palette and the values of "
    "mask files. Version 1 has its defaults",
}


def check_format(content: dict[str, Any], label: str | os.PathLike) -> int:
    """The version of what a checkpoint holds.

    Args:
        content: its entries.
        label: what it is called in messages.

    Raises:
        InputError: It is newer than what is read here, or no number.
    """
    number = content.get(KEY, 1)
    if type(number) is not int or number < 1:
        raise InputError(f"{label} has the format {number!r:.100}, which is no version of this package's checkpoints")
    if number > VERSION:
        raise InputError(
            f"{label} is a checkpoint of format {number}, and this version of lk_downstream reads up to {VERSION}: "
            "update it (pip install --upgrade lk_downstream)"
        )
    return number
