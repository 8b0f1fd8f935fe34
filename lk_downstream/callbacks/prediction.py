"""Predictions on images, written to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from rich.console import Console
from torch import Tensor

from lk_downstream.inference.arrays import shown
from lk_downstream.machine import shown_path
from lk_downstream.reports.files import write_image
from lk_downstream.reports.masks import colour_table, overlay


class SegmentationFiles(L.Callback):
    """Writes the predicted classes of each image, and the image under their colours, to the run's folder.

    ``labels/NAME.png`` is an image of one 8-bit channel at the size of the original. Its values are those of the data
    set's own mask files, such as 1 to 150 for ADE20K and the label ids that Cityscapes' benchmark takes; where the data
    module knows none, class indices. ``overlays/NAME.png`` is for looking at.

    Args:
        overlays: Write the overlays.
    """

    def __init__(self, overlays: bool = True):
        self.overlays = overlays
        self.folder = Path()
        self.written = 0

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the folder, which all processes agree on."""
        self.folder, self.written = Path(trainer.log_dir or trainer.default_root_dir), 0

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: Tensor,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch."""
        values = getattr(trainer.datamodule, "label_values", np.arange(256, dtype=np.uint8))
        colours = colour_table(trainer.datamodule.palette)
        for name, image, prediction in zip(batch["name"], batch["image"], outputs.cpu().numpy()):
            write_image(self._path("labels", name), values[prediction])
            if self.overlays:
                write_image(self._path("overlays", name), overlay(shown(image), prediction, colours))
            self.written += 1

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say where the files lie."""
        if not trainer.is_global_zero or not self.written:
            return
        console = Console(soft_wrap=True)
        many = "s" if self.written > 1 else ""
        others = " by this process" if trainer.world_size > 1 else ""
        console.print(f"{self.written} image{many} predicted{others}")
        for kind in ("labels", "overlays") if self.overlays else ("labels",):
            console.print(f"{kind:<12} {shown_path(self.folder / kind)}")

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.png"
