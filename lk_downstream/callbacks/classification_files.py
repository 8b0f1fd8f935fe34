"""Predicted classes, written to files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import lightning as L
from rich.console import Console
from torch import Tensor

from lk_downstream.machine import shown_path
from lk_downstream.reports.files import write_json, write_table


class ClassificationFiles(L.Callback):
    """Writes the best classes of each image with their probabilities to the run's folder.

    ``predictions.json`` is a list of ``{"name", "classes", "scores"}``, best class first; ``predictions.csv`` has the
    same as a table: name, class1, score1, class2, ... With several processes each writes its own share, with its number
    in the names.

    Args:
        shown: Of how many images the best class is printed.
    """

    def __init__(self, shown: int = 10):
        self.shown = shown
        self.rows: list[dict[str, Any]] = []
        self.folder = Path()

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the folder, which all processes agree on."""
        self.folder, self.rows = Path(trainer.log_dir or trainer.default_root_dir), []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: tuple[Tensor, Tensor],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the classes of a batch."""
        for name, scores, labels in zip(batch["name"], *(output.tolist() for output in outputs)):
            classes = [task.classes[label] for label in labels]
            self.rows.append({"name": name, "classes": classes, "scores": scores})

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the files, and say what is in them and where they lie."""
        mark = f"_{trainer.global_rank}" if trainer.world_size > 1 else ""
        table, listing = (self.folder / f"predictions{mark}.{suffix}" for suffix in ("csv", "json"))
        write_json(listing, self.rows)
        ranks = range(1, 1 + max((len(row["scores"]) for row in self.rows), default=0))
        heading = ["name", *(f"{what}{rank}" for rank in ranks for what in ("class", "score"))]
        pairs = ([row["name"], *itertools.chain(*zip(row["classes"], row["scores"]))] for row in self.rows)
        write_table(table, heading, pairs)
        if trainer.is_global_zero:
            console = Console(soft_wrap=True)
            for row in self.rows[: self.shown]:
                line = f"{row['name']}: {row['classes'][0]} {row['scores'][0]:.2f}"
                console.print(line.encode("utf-8", "backslashreplace").decode(), markup=False)
            for name, path in (("table", table), ("list", listing)):
                console.print(f"{name:<12} {shown_path(path)}", markup=False)
