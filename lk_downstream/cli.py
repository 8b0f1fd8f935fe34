"""The command line: LightningCLI with the run's folder, loggers and report, and errors in one sentence."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichModelSummary, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lk_downstream.callbacks import RunReport
from lk_downstream.data import DataModule
from lk_downstream.errors import InputError, near_names
from lk_downstream.tasks import Task

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "use_distributed_sampler": False,  # it repeats samples to even out processes; the data modules have their own
    "enable_model_summary": False,  # replaced by the rich one
}
CHECKPOINT_DEFAULTS = {"mode": "max", "save_top_k": 1, "save_last": True, "auto_insert_metric_name": False}


class CLI(LightningCLI):
    """``fit``, ``validate`` and ``predict`` of any task on any data module."""

    def __init__(self, args: Sequence[str]):
        super().__init__(
            Task,
            DataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # optimizer and schedule are the task's arguments
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands, with the arguments that the command line does not offer."""
        own = {"model", "dataloaders", "datamodule"}
        return {
            "fit": {"train_dataloaders", "val_dataloaders", *own},
            "validate": own,
            "predict": own,
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the checkpoints."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in CHECKPOINT_DEFAULTS.items()})
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def before_instantiate_classes(self) -> None:
        """Give the task the classes of the data, and no weights to load where a checkpoint or others follow."""
        config = self.config[self.subcommand]
        if config.get("data") and config.get("model"):
            # Not jsonargparse's link_arguments, which fails where a class_path is a function (create_backbone).
            parser = ArgumentParser()
            parser.add_subclass_arguments(DataModule, "data")
            data = parser.instantiate_classes(parser.parse_object({"data": config.data.clone()})).data
            config.model.init_args.classes = tuple(data.classes)
            backbone = config.model.init_args.get("backbone")
            if backbone and (config.get("ckpt_path") or config.model.init_args.get("weights")):
                backbone.init_args.weights = None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run's folder; intervals of validation count optimizer steps."""
        options = self._get(self.config_init, "trainer")
        checkpoint = self._get(self.config_init, "checkpoint")
        checkpoint.monitor = checkpoint.monitor or self.model.monitor
        checkpoint.filename = checkpoint.filename or "best_step={step}"
        extra = [LearningRateMonitor(logging_interval="step"), RunReport()] if self.subcommand == "fit" else [RunReport()]
        if sys.stdout.isatty():
            extra.append(RichProgressBar(leave=False))
        if self.subcommand == "fit":
            extra.append(RichModelSummary(max_depth=1))
        kwargs["callbacks"] = [*(options.get("callbacks") or []), *extra]
        interval = options.get("val_check_interval")
        if isinstance(interval, int):
            kwargs["val_check_interval"] = interval * options["accumulate_grad_batches"]
            kwargs["check_val_every_n_epoch"] = None  # an interval longer than an epoch goes on in the next
        if options.get("logger") in (None, True):
            folder = Path(options["default_root_dir"]) / self._run_name()
            version = next_version(folder, {"fit": "run", "validate": "evaluation", "predict": "prediction"}[self.subcommand])
            kwargs["logger"] = [CSVLogger(folder.parent, folder.name, version)]
            if self.subcommand == "fit":
                kwargs["logger"].append(TensorBoardLogger(folder.parent, folder.name, version))
        return super().instantiate_trainer(**kwargs)

    def _run_name(self) -> str:
        files = self.config[self.subcommand].get("config") or []
        return Path(str(files[0])).stem if files else type(self.model).__name__.lower()


def next_version(folder: Path, kind: str) -> str:
    """``run_0``, ``run_1`` and so on: the first of which ``folder`` has no file."""
    number = 0
    while (folder / f"{kind}_{number}").exists():
        number += 1
    return f"{kind}_{number}"


def main(subcommand: str, args: Sequence[str] | None = None) -> CLI:
    """Run a subcommand.

    Args:
        subcommand: ``fit``, ``validate`` or ``predict``.
        args: Words of the command line after the program; None: the real ones.

    Returns:
        The command line object, which holds the trainer, the model and the data module.

    Raises:
        SystemExit: With one sentence, if something given from outside is wrong.
    """
    args = sys.argv[1:] if args is None else list(args)
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        return CLI([subcommand, *args])
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            "error: the GPU's memory is used up; raise --trainer.accumulate_grad_batches (the global batch stays), set "
            "--model.backbone.grad_checkpointing true or --trainer.precision bf16-mixed, or evaluate with a sliding window"
        ) from error
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        raise SystemExit(f"error: {sentence}") from None


def explain(error: BaseException) -> str | None:
    """What a user has to know of an error: its root cause in a sentence, or None if it is not the user's mistake."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, InputError):
            return str(link)
    if any(isinstance(link, ArgumentError) for link in chain):
        return _root_of_parser_error(str(chain[0]))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root_of_parser_error(text: str) -> str:
    return text
