"""Errors that a user can mend, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something given from outside (a file, an option, a data set) is wrong.

    The message is one sentence that names the file or option and the remedy. The command line prints it without
    a stack trace and exits with 1.
    """

    def __init__(self, message: str):
        # A data-loader worker hands its error over as text: "Caught InputError in DataLoader worker process 0.",
        # the worker's stack trace, and the sentence last.
        if message.startswith("Caught InputError"):
            message = message.rstrip().rsplit("InputError: ", 1)[-1]
        super().__init__(message)


def near_names(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'slak_tiny'?``, or an empty string if nothing in ``known`` is near ``name``."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(item) for item in near)}?" if near else ""
