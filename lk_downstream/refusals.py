"""What the command line says of mistakes: one sentence with the remedy, in place of a stack trace."""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lk_downstream import data, heads, loggers
from lk_downstream.callbacks import Checkpoints
from lk_downstream.data import DataModule
from lk_downstream.inference import Inference, MultiScaleBoxes
from lk_downstream.parser_errors import explain
from lk_downstream.tasks import Task
from lk_downstream.tasks.losses import PixelLoss, SumOfLosses
from lk_downstream.tasks.robustness import Trainer

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ETIMEDOUT)
NO_MEMORY = (
    "the GPU's memory is used up; raise --trainer.accumulate_grad_batches (the global batch stays), set "
    "--trainer.precision bf16-mixed or --model.backbone.grad_checkpointing true, or evaluate by Slide"
)

SHARED_MEMORY = (
    "the shared memory of the machine (/dev/shm) is too small for the batches of the loader processes: enlarge it, in "
    "a container by --shm-size 8g, or set --data.workers 0"
)
# What PyTorch says of a loader process that has ended -> what to do. The first that is found counts.
WORKERS = {
    "killed by signal: Killed": "a loader process was killed, as happens where memory is used up: lower --data.workers "
    "or data.batch_size",
    "Bus error": SHARED_MEMORY,
    "shared memory": SHARED_MEMORY,
    "</torch_": SHARED_MEMORY,
    "killed by signal": "a loader process was killed from outside: start again",
    "exited unexpectedly": "a loader process has ended without a word, as where memory is used up: lower "
    "--data.workers or data.batch_size; --data.workers 0 shows an error that it may have had",
}
DEVICES = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "cpu": CPUAccelerator}
GO_ON = "; a training goes on from the last checkpoint of its run by --ckpt_path"


def sentence(error: Exception) -> str | None:
    """What a user can do about an error, or None if it is no mistake of theirs and not the machine's."""
    if isinstance(error, torch.OutOfMemoryError):
        return NO_MEMORY
    return explain(error, _options(), _classes()) or _outside(error)


def _outside(error: Exception) -> str | None:
    """What to do about an error of the machine or of Lightning, or None if it is neither."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = f" ({error.filename})" if error.filename else ""
        place = "make room, or name another place by --trainer.default_root_dir"
        return f"{error.strerror}{where}: {place}; what was complete before is still there"
    if isinstance(error, OSError) and error.errno in GONE and error.filename:
        return f"{error.strerror} ({error.filename}): see whether its disk or folder is still there, and bring it back"
    if isinstance(error, AttributeError) and str(error).startswith("When using the learning rate finder"):
        return "Lightning's LearningRateFinder knows no parameter groups: take --trainer.callbacks+=FindLearningRate"
    if isinstance(error, RuntimeError) and ("closed by peer" in str(error) or type(error).__name__.startswith("Dist")):
        return "another process of this run has failed, see its message"
    if isinstance(error, RuntimeError):
        remedy = next((remedy for words, remedy in WORKERS.items() if words in str(error)), None)
        if remedy:
            return remedy + GO_ON
    if isinstance(error, ValueError) and "SLURM" in str(error):
        tasks = "let --trainer.devices be the tasks of a node (--ntasks-per-node) and --trainer.num_nodes the --nodes"
        return f"{one_line(error)} {tasks}"
    if isinstance(error, ValueError) and str(error).startswith("Expected more than 1 value per channel"):
        return "batch norm needs more than one image in a batch of a device: raise data.batch_size"
    # Lightning's word for settings that do not go together
    return one_line(error) if isinstance(error, MisconfigurationException) else None


def of_trainer(error: Exception, options: Mapping[str, Any]) -> str:
    """What the Trainer refuses: its options, or what the machine lacks."""
    text = one_line(error)
    if re.search(r"No supported gpu|can not run on your system|invalid accelerator name|requested gpu", text):
        there = [name for name, kind in DEVICES.items() if kind.is_available()]
        return (
            f"--trainer.accelerator {options['accelerator']}: PyTorch {torch.__version__} finds no such device here, "
            f"but {' and '.join(there)}: leave the option out to use that; if there is a GPU, install its driver and a "
            "PyTorch for it"
        )
    return f"--trainer: {text}"


def one_line(error: Exception) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())


def _classes() -> dict[str, str]:
    """Name of each class that a setting may call for -> how it is written there."""
    bases = [Task, DataModule, Inference, MultiScaleBoxes, PixelLoss, SumOfLosses, L.Callback, torch.optim.Optimizer]
    bases += [torch.optim.lr_scheduler.LRScheduler, loggers.Logger]
    for base in bases:  # which grows
        bases += base.__subclasses__()
    found = {base.__name__: base.__name__ for base in bases if not base.__name__.startswith("_")}
    ours = [(module, name) for module in (data, heads) for name in module.__all__ if name[0].isupper()]
    return found | {name: f"{module.__name__}.{name}" for module, name in ours if name not in found}


def _options() -> list[str]:
    """The options that are not those of a class of the user's choice."""
    groups = {"trainer": L.Trainer, "checkpoint": Checkpoints}
    own = [f"{group}.{name}" for group, source in groups.items() for name in inspect.signature(source).parameters]
    own += inspect.signature(Trainer.robustness).parameters
    stops = ("print_config", "print_groups", "show_batches")
    return [*own, "config", "model", "data", "ckpt_path", "seed_everything", *stops]
