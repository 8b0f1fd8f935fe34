"""The closing report of a run."""

from __future__ import annotations

import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console, RenderableType

from lk_downstream.machine import description, device_name, peak_memory, shown_path, versions
from lk_downstream.ops import LargeKernelConv2d, notice
from lk_downstream.reports.files import write_json
from lk_downstream.reports.tables import class_table, duration, metrics_of_kinds, percent


class Section(NamedTuple):
    """What a callback adds to the report of a run."""

    name: str  # its key in metrics.json
    metrics: dict[str, Any]  # what stands there, plain data
    shown: list[RenderableType]  # what is printed


@runtime_checkable
class Reporting(Protocol):
    """A callback that adds a section to the report."""

    def report_section(self, task: L.LightningModule) -> Section | None:
        """The section as it is now; None: nothing to say."""
        ...


class RunReport(L.Callback):
    """Prints a table and the main metrics when a run ends, and writes them to ``metrics.json``.

    Reads ``results`` and ``monitor`` of the task (:class:`lk_downstream.tasks.Task`) and the sections of callbacks
    (:class:`Reporting`), and knows none in particular.
    ``metrics.json`` is written after every validation, complete or not at all, so a killed run has its last one.

    Args:
        command: What made the run, as it is typed.
    """

    def __init__(self, command: str = ""):
        self.made = {"command": command, "started": datetime.now().astimezone().isoformat(" ", "seconds")}
        self.start = 0.0
        self.folder: str | None = None
        self.training = False
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Start the clock."""
        self.start, self.training = time.perf_counter(), stage == "fit"
        self.folder = trainer.log_dir  # asks all processes, so not later, where only the first is at work

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far, so that a resumed run knows it."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best validation from the checkpoint of a resumed run; an evaluation has metrics of its own."""
        if self.training:
            self.best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Keep the metrics, and write them down."""
        if trainer.sanity_checking or not task.results:
            return
        self.last = {"step": trainer.global_step, **task.results}
        if not self.best or self._rank(trainer, task, self.last) > self._rank(trainer, task, self.best):
            self.best = self.last
        if trainer.is_global_zero and self.folder:
            write_json(Path(self.folder) / "metrics.json", self._metrics(trainer, task))

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what is trained, and where its files will lie."""
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, ModelCheckpoint) and not checkpoints.best_model_path:
            self.best = {}  # of a resumed run, whose best is gone or was chosen by another metric
        if trainer.is_global_zero:
            sizes = {name: sum(tensor.numel() for tensor in part.parameters()) for name, part in task.named_children()}
            parts = ", ".join(f"{name} {size / 1e6:.3g} M" for name, size in sizes.items() if size)
            device = device_name(trainer.strategy.root_device)
            Console(soft_wrap=True).print(
                f"{type(task).__name__}: {parts} parameters; {trainer.world_size} x {device}; {self.folder}",
                markup=False,
            )
            if any(isinstance(module, LargeKernelConv2d) for module in task.modules()):
                Console(soft_wrap=True).print(notice(trainer.strategy.root_device), markup=False)

    def on_fit_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Print the report of a training run."""
        if not trainer.fast_dev_run:
            self._print(trainer, task)

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Print the report of an evaluation, the end of which has no hook of its own."""
        if stage == "validate" and self.last:
            self._print(trainer, task)

    def _metrics(self, trainer: L.Trainer, task: L.LightningModule) -> dict[str, Any]:
        memory = peak_memory(trainer.strategy.root_device)
        return {
            "best": self.best,
            "last": self.last,
            "seconds": round(time.perf_counter() - self.start, 1),
            "peak_memory_gib": memory and round(memory, 2),
            "device": device_name(trainer.strategy.root_device),
            "processes": trainer.world_size,
            **self.made,
            "machine": description(),
            "versions": versions(),
            **{section.name: section.metrics for section in _sections(trainer, task)},
        }

    def _rank(self, trainer: L.Trainer, task: L.LightningModule, results: dict[str, Any]) -> float:
        """By what the best is chosen, higher is better: as the checkpoints choose theirs, if by one of them."""
        checkpoints, metric = trainer.checkpoint_callback, task.monitor.split("/")[-1]
        sign = 1.0
        if isinstance(checkpoints, ModelCheckpoint) and checkpoints.monitor:
            own = checkpoints.monitor.split("/")[-1]
            if own in results["summary"]:
                metric, sign = own, -1.0 if checkpoints.mode == "min" else 1.0
        value = sign * results["summary"][metric]
        return -math.inf if math.isnan(value) else value

    def _print(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console(soft_wrap=True)
        console.print()
        if self.last:
            best, metric = self.best, task.monitor.split("/")[-1]
            console.print(class_table(best["classes"]))
            kinds = metrics_of_kinds(best["summary"])
            if kinds:
                console.print("", class_table(kinds), sep="\n")
            single = {} if kinds else best["summary"]
            others = "".join(f"  {name} {percent(value)}" for name, value in single.items() if name != metric)
            fitted = f" (best, step {best['step']}; last {percent(self.last['summary'][metric])})"
            note = fitted if trainer.state.fn == "fit" else ""
            console.print(f"[bold green]{metric} {percent(best['summary'][metric])}[/]{others}{note}")
        for section in _sections(trainer, task):
            console.print(*section.shown, sep="\n")
        metrics = self._metrics(trainer, task)
        peak = metrics["peak_memory_gib"]
        memory = "" if peak is None else f", peak memory {peak:.1f} GiB"
        console.print(f"{duration(metrics['seconds'])}{memory} on {metrics['device']}")
        for name, path in self._files(trainer).items():
            if path and Path(path).exists():
                console.print(f"{name:<12} {shown_path(path)}", markup=False)

    def _files(self, trainer: L.Trainer) -> dict[str, str | None]:
        folder = Path(self.folder or ".")
        checkpoint = trainer.checkpoint_callback if trainer.state.fn == "fit" else None
        best = checkpoint.best_model_path if isinstance(checkpoint, ModelCheckpoint) else None
        last = checkpoint.last_model_path if isinstance(checkpoint, ModelCheckpoint) else None
        names = {"config": "config.yaml", "metrics": "metrics.json", "images": "predictions.png"}
        names |= {"curves": "curves.png", "calibration": "reliability.png", "confusions": "confusions.png"}
        names |= {"matrix": "confusion_matrix.png", "per image": "per_image.csv", "rates": "learning_rates.png"}
        names |= {"page": "report.html"}
        return {
            "checkpoint": best or None,
            "last": last or None,
            **{name: str(folder / file) for name, file in names.items()},
        }


def _sections(trainer: L.Trainer, task: L.LightningModule) -> list[Section]:
    sections = [callback.report_section(task) for callback in trainer.callbacks if isinstance(callback, Reporting)]
    return [section for section in sections if section is not None]
