"""Where tables are printed: as wide as the terminal, or wide enough for all columns in a file or a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The standard output for rich's tables."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)
