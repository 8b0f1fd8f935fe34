"""The metric of a task and of the files that were exported of it, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from lk_downstream.data import DataModule
from lk_downstream.export import score
from lk_downstream.exported import open_exported
from lk_downstream.tasks import Task


def scores_table(task: Task, data: DataModule, paths: Sequence[Path]) -> Table:
    """See :func:`lk_downstream.export.score`: of the task, and of each file with its size and the difference."""
    original = score(task, data)
    table = Table("file", "MB", *(title for name in original for title in (name, "difference")))
    table.add_row("original", "", *(text for value in original.values() for text in (f"{value:.4f}", "")))
    for path in paths:
        found = score(task, data, open_exported(path))
        size = sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}.data")) if part.is_file())
        values = (text for name in found for text in (f"{found[name]:.4f}", f"{found[name] - original[name]:+.4f}"))
        table.add_row(path.as_posix(), f"{size / 1e6:.1f}", *values)
    return table
