"""The command line: LightningCLI with the run's folder, loggers and report, and errors in one sentence."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from lk_downstream import loggers, machine, refusals, slurm
from lk_downstream.backbones import files
from lk_downstream.callbacks import CheckpointFiles, Checkpoints, Curves, RunPage, RunProgress, RunReport, Stopping
from lk_downstream.class_help import DESCRIPTION, Parser, completed
from lk_downstream.data import DataModule
from lk_downstream.errors import InputError, some
from lk_downstream.optim import groups_table
from lk_downstream.quiet import quieten
from lk_downstream.stopping import Signals, Stopped
from lk_downstream.tasks import Task
from lk_downstream.tasks.robustness import Trainer

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "use_distributed_sampler": False,  # it repeats samples to even out processes; the data modules have their own
    "enable_progress_bar": False,  # replaced by RunProgress
    "enable_model_summary": False,  # and by RunReport's opening line
}
COMMANDS = {"fit": "fit", "validate": "evaluate"}  # by their names for Lightning, those that report
FOLDERS = {"fit": "run", "validate": "evaluation", "predict": "prediction", "robustness": "robustness"}
MODE = "yaml_with_none"


def _load(text: str) -> Any:
    """YAML, and None for ``None``: what jsonargparse makes of a null on its way to a setting two levels down."""
    return None if text.strip() == "None" else get_loader("yaml")(text)


set_loader(MODE, _load, (yaml.YAMLError,))


class SavedConfig(SaveConfigCallback):
    """The run's ``config.yaml``, without the names of the classes, which come from the data each time."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, *args: Any, **kwargs: Any):
        super().__init__(parser, _without_classes(config), *args, **kwargs)


class CLI(LightningCLI):
    """``fit``, ``validate`` and ``predict`` of any task on any data module, and ``robustness`` of a classifier."""

    def __init__(self, subcommand: str, args: Sequence[str], signals: Signals):
        self.wanted, self.words, self.signals = subcommand, list(args), signals
        self.made: list[Path] = []  # the run's folder and those above it, as far as they were made here
        try:
            super().__init__(
                Task,
                DataModule,
                trainer_class=Trainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,  # optimizer and schedule are the task's arguments
                save_config_callback=SavedConfig,
                save_config_kwargs={"overwrite": True},  # its folder is new, see instantiate_classes
                seed_everything_default=0,
                load_from_checkpoint_support=False,  # a checkpoint's settings would overrule the command line's
                parser_class=Parser,
                parser_kwargs={"exit_on_error": False, "parser_mode": MODE},
                args=[subcommand, *args],
            )
        except BaseException:
            self._leave_no_trace()
            raise

    def subcommands(self) -> dict[str, set[str]]:
        """The subcommand, the only one whose options are made, and arguments of the Trainer's method that are none."""
        return {self.wanted: {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the checkpoints, and our defaults."""
        parser.description = DESCRIPTION
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_argument("--print_groups", action="store_true", help="print the optimizer's groups and stop")
        parser.add_argument("--show_batches", type=str, help="draw the first training images to this PNG file and stop")
        if self.wanted == "validate":
            parser.add_argument("--split", type=str, help="evaluate on this split of the data, such as test or train")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and look at the checkpoint before Lightning reads it."""
        super().parse_arguments(parser, completed(parser, args))
        self.subcommand = self.wanted  # as Lightning sets it later
        if self.subcommand == "fit":
            self._go_on_with_job()
        self.insisted = any(word.split("=")[0] == "--trainer.precision" for word in args)
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        if checkpoint and Path(checkpoint).is_file():
            files.check_run(checkpoint)

    def _go_on_with_job(self) -> None:
        """Resume the run of a job that Slurm has started again; a run that is finished ends the process."""
        config = self.config.fit
        if config.get("ckpt_path"):
            return
        for run, finished in slurm.runs(Path(config.trainer.default_root_dir) / self._run_name(), self.words):
            last = run / "checkpoints" / "last.ckpt"
            if finished:
                print(f"this job was started again, and its run {run} is finished")
                raise SystemExit(0)
            if last.is_file():
                print(f"this job was started again, and goes on from {last}")
                config.ckpt_path = str(last)
                return

    def before_instantiate_classes(self) -> None:
        """Give the task the classes of the data, and no weights to load where a checkpoint or others follow."""
        config = self.config[self.subcommand]
        checkpoint = config.get("ckpt_path")
        self._choose_precision(config.trainer)
        config.weights_only = True  # else an environment variable could let a checkpoint run code
        if split := config.get("split"):
            _evaluate_on(config.data, split)
        # Lightning's "last" and "best" would look into the folder of the new run, and go on without a checkpoint.
        if checkpoint and not Path(checkpoint).is_file() and _is_first_process():  # the others get it from there
            raise InputError(f"--ckpt_path: there is no file {checkpoint}; a run has its own in its folder checkpoints")
        # Not jsonargparse's link_arguments, which fails where a class_path is a function (create_backbone).
        parser = ArgumentParser()
        parser.add_subclass_arguments(DataModule, "data")
        self.datamodule = parser.instantiate_classes(parser.parse_object({"data": config.data.clone()})).data
        config.model.init_args.classes = tuple(self.datamodule.classes)
        backbone = config.model.init_args.backbone.init_args
        self.datamodule.use_channels(backbone.get("in_chans", 3))
        trained = checkpoint or config.model.init_args.get("weights")
        if "num_classes" in backbone:  # a classifier, whose weights are all that there are
            backbone.num_classes = len(self.datamodule.classes)
            trained = trained or backbone.get("weights")
        if self.subcommand != "fit" and not trained:
            what = FOLDERS[self.subcommand]
            raise InputError(f"{what} needs a trained model: give --ckpt_path FILE or --model.weights FILE")
        if self.subcommand == "predict":
            config.return_predictions = False  # a callback writes them; together they may not fit into memory
        if self.subcommand == "validate":
            config.verbose = False  # the report has the metrics
        stops = config.get("print_groups") or config.get("show_batches")
        if checkpoint or config.model.init_args.get("weights") or stops:
            backbone.weights = None

    def _choose_precision(self, trainer: Namespace) -> None:
        """Take float32 for a precision of the file which this CPU would emulate; say so, also where a user insists."""
        on_gpu = any(kind.is_available() for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator))
        on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not on_gpu)
        wanted = trainer.precision
        lacking = machine.slow_type(wanted) if on_cpu else None
        if not lacking:
            return
        note = f"this CPU has no {lacking} arithmetic, which is emulated some ten times slower than float32"
        if self.insisted:
            note += ": leave out --trainer.precision"
        else:
            trainer.precision = "32-true"
            note += f": 32-true is used in place of {wanted} (--trainer.precision {wanted} insists)"
        if _is_first_process():
            Console(soft_wrap=True).print(note, markup=False, highlight=False)

    def instantiate_classes(self) -> None:
        """Make the task and the trainer. The data module is there already, and to read its classes may take long."""
        config = self.config.clone()
        config[self.subcommand].data = None
        above = Path(config[self.subcommand].trainer.default_root_dir) / self._run_name()
        self.folder = above / self._new_folder(above)
        loggers.place(config[self.subcommand].trainer.logger, self.folder)
        self.config_init = self.parser.instantiate_classes(config)
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self) -> None:
        """Give the task its recipe, which it saves in its checkpoints; or print groups, or show batches, and stop."""
        if self.config[self.subcommand].get("print_groups"):
            Console().print(groups_table(self.model.groups, self.model, self.model.optimizer_factory))
            raise SystemExit(0)
        if path := self.config[self.subcommand].get("show_batches"):
            from lk_downstream.callbacks.sheet import write_batches

            write_batches(path, self.trainer, self.model, self.datamodule)
            print(f"samples      {path}")
            raise SystemExit(0)
        # The names of thousands of classes would take seconds on their way through the parser.
        plain = yaml.safe_load(self.parser.dump(_without_classes(self.config, self.subcommand), skip_none=False))
        self.model.recipe = plain[self.subcommand]["model"]
        self.model.recipe["init_args"]["classes"] = list(self.model.classes)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the run's folder; intervals of validation count optimizer steps."""
        options = self._get(self.config_init, "trainer")
        training, logged = self.subcommand == "fit", options.get("logger") is not False
        own = [*([LearningRateMonitor("step")] if training and logged else []), *([Curves()] if training else [])]
        own += [RunProgress(), Stopping(self.signals)]
        if self.subcommand in COMMANDS:  # the metrics of a robustness evaluation are not those of a validation
            own += [RunPage(), RunReport(shlex.join(["lk-downstream", COMMANDS[self.subcommand], *self.words]))]
        if str(options.get("strategy")).startswith(("auto", "ddp", "single")):  # others have formats of their own
            plugins = options.get("plugins") or []
            kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), CheckpointFiles()]
        kwargs["callbacks"] = [*(options.get("callbacks") or []), *own]
        interval, accumulated = options.get("val_check_interval"), options["accumulate_grad_batches"]
        for name, value in (("val_check_interval", interval), ("accumulate_grad_batches", accumulated)):
            if isinstance(value, int) and value < 1:
                raise InputError(f"trainer.{name} is {value}: it must be at least 1")
        if isinstance(interval, int):
            kwargs["val_check_interval"] = interval * accumulated
            kwargs["check_val_every_n_epoch"] = None  # an interval longer than an epoch goes on in the next
        given = options.get("logger") if self.subcommand != "robustness" else False
        kwargs["logger"] = loggers.of_run(given, self.folder, training)
        # Lightning looks there for checkpoints of Slurm jobs, which in a common folder would be of other runs.
        kwargs["default_root_dir"] = str(self.folder)
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, RuntimeError, ValueError) as error:  # two callbacks of a kind: RuntimeError
            raise InputError(refusals.of_trainer(error, options)) from error

    def _new_folder(self, folder: Path) -> str:
        """Make the run's folder, at once: two runs that start together must not take the same."""
        kind = FOLDERS[self.subcommand]
        if not _is_first_process():  # it uses that of the first process
            return next_version(folder, kind)
        while True:
            path = folder / next_version(folder, kind)
            made = [path, *(parent for parent in path.parents if not parent.exists())]
            try:
                path.mkdir(parents=True)
            except OSError as error:
                if not path.is_dir():
                    raise InputError(f"--trainer.default_root_dir: cannot make {path}: {error.strerror}") from error
                continue  # another run was faster
            self.made = made
            if kind == "run":
                slurm.note(path, self.words)
            return path.name

    def _leave_no_trace(self) -> None:
        """Remove the folder of a run that has made nothing."""
        if not self.made:
            return
        if not all(_of_start(path.relative_to(self.made[0])) for path in self.made[0].rglob("*") if path.is_file()):
            return
        shutil.rmtree(self.made[0], ignore_errors=True)
        for parent in self.made[1:]:
            with suppress(OSError):  # there is something else in it
                parent.rmdir()

    def _run_name(self) -> str:
        config = self.config[self.subcommand]
        files = config.get("config") or []
        if not files:
            return config.model.class_path.rsplit(".", 1)[-1].lower()
        path = Path(str(files[0])).absolute()
        # What is done with the config that a run has saved belongs beside that run.
        return path.parent.parent.name if path.name == "config.yaml" else path.stem


def _without_classes(config: Namespace, subcommand: str | None = None) -> Namespace:
    config = config.clone()
    (config[subcommand] if subcommand else config).model.init_args.classes = ()
    return config


def _evaluate_on(data: Namespace, split: str) -> None:
    """Let a data module evaluate on a split, whatever its training has held out."""
    options = data.init_args
    if "val_split" not in options:
        raise InputError(f"--split: {data.class_path} has no option val_split; set those that it has")
    options.val_split = split
    for name in ("val_fraction", "fold", "group_by"):
        if name in options:
            options[name] = None


def _is_first_process() -> bool:
    """Whether this is the first process of a run, as far as launchers tell it before the processes know each other."""
    return not rank_zero_only.rank and not int(os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or 0)


def _of_start(path: Path) -> bool:
    """Whether a file in a run's folder is there before the first result; of the loggers, until a step is done."""
    names = ("config.yaml", "hparams.yaml", slurm.FILE)
    logged = path.name.startswith("events.out.tfevents.") or not set(loggers.FOLDERS).isdisjoint(path.parts)
    return path.name in names or logged


def next_version(folder: Path, kind: str) -> str:
    """``run_0``, ``run_1`` and so on: the first that ``folder`` does not hold."""
    number = 0
    while (folder / f"{kind}_{number}").exists():
        number += 1
    return f"{kind}_{number}"


def main(subcommand: str, args: Sequence[str] | None = None) -> CLI:
    """Run a subcommand.

    Args:
        subcommand: ``fit``, ``validate``, ``predict`` or ``robustness``.
        args: Words of the command line after the program; None: the real ones.

    Returns:
        The command line object, which holds the trainer, the model and the data module.

    Raises:
        SystemExit: With one sentence, if something given from outside is wrong; with 128 plus its number, if a signal
            has ended the run.
    """
    args = sys.argv[1:] if args is None else list(args)
    quieten()
    if subcommand != "fit":  # what averaged or reported in a training has no part in an evaluation
        warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32, which convolutions have by default
    try:
        with Signals() as signals:
            command = CLI(subcommand, args, signals)
            if command.made and subcommand == "fit":
                slurm.note(command.made[0], args, finished=True)
            if command.datamodule.unreadable:
                sentences = command.datamodule.unreadable
                raise InputError(f"{len(sentences)} of the images could not be read: {some(sentences)}")
            return command
    except Stopped as stopped:
        # What ends with an error, ends all processes of a run, and the first may still have something to write.
        raise SystemExit(stopped.status if _is_first_process() else 0) from None
    except Exception as error:
        said = refusals.sentence(error)
        if said is None:
            raise
        raise SystemExit(f"error: {said}") from None
