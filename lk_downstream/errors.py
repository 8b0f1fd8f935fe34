"""Errors that a user can mend, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something given from outside (a file, an option, a data set) is wrong.

    The message is one sentence that names the file or option and the remedy. The command line prints it without
    a stack trace and exits with 1.
    """

    def __init__(self, message: str):
        # A data-loader worker hands its error over as text: "Caught InputError in DataLoader worker process 0.",
        # the worker's stack trace, and the sentence last.
        name = type(self).__name__
        if message.startswith(f"Caught {name}"):
            message = message.rstrip().rsplit(f"{name}: ", 1)[-1]
        super().__init__(message)


class DamagedFile(InputError):
    """A file of a data set cannot be read to its end; a training may go on without it, see ``data.skip_damaged``."""


def near_names(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'slak_tiny'?``, or an empty string if nothing in ``known`` is near ``name``."""
    return did_you_mean(difflib.get_close_matches(name, list(known), n=3, cutoff=0.6))


def some(values: Iterable[Any], count: int = 5) -> str:
    """The first of some values, for a message, such as ``a, b, ...``."""
    values = list(values)
    return ", ".join(map(str, values[:count])) + (", ..." if len(values) > count else "")


def did_you_mean(near: list[str]) -> str:
    """A hint that names some values, or an empty string if there are none."""
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
