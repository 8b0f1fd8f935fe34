"""The command ``lk-downstream``: its subcommands. Nothing is imported before it is known which of them is wanted."""

from __future__ import annotations

import importlib
import io
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple

from lk_downstream import __version__
from lk_downstream.errors import InputError, near_names


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        summary: what it does, in a line.
        function: its module and name; it takes the words that follow the subcommand and returns an exit code.
    """

    summary: str
    function: str


COMMANDS = {
    "fit": Command("train by a config, and validate", "recipes:fit"),
    "evaluate": Command("validate a checkpoint or published weights, or score a results file", "recipes:evaluate"),
    "predict": Command("write the predictions of a checkpoint for images", "recipes:predict"),
    "robustness": Command("evaluate a classifier on ImageNet-A, -R, -C and more; its shape bias", "recipes:robustness"),
    "export": Command("write a network as ONNX and as a program of torch.export", "export:main"),
    "push": Command("share a trained model on the Hugging Face Hub, or write it to a folder", "push:main"),
    "average": Command("write the mean of the best or the last checkpoints of a run", "average:main"),
    "convert": Command("write a segmentation checkpoint in mmsegmentation's format", "convert:main"),
    "check-data": Command("read a data set and say what is in its masks, and what is wrong", "check_data:main"),
    "profile": Command("parameters and multiply-adds of models, and speed and memory of trained ones", "profile:main"),
    "receptive-field": Command("draw effective receptive fields side by side", "receptive_field:main"),
    "kernels": Command("draw large kernels, and say how much of them lies far from the centre", "kernels:main"),
    "study": Command("run a config with several values of its options, and compare them", "study:main"),
    "compare": Command("compare runs: table, plots, and which differences are noise", "compare:main"),
    "plot": Command("draw the curves of a run, finished or not", "plot:main"),
    "report": Command("draw the page of a run, finished or not", "report:main"),
    "benchmark": Command("speed of large-kernel layers and networks against plain PyTorch", "benchmark:main"),
}
LIBRARIES = ("torch", "torchvision", "lightning", "timm")  # whose versions are told


def main(args: Sequence[str] | None = None) -> int:
    """Run the subcommand that the first word names.

    Args:
        args: Words of the command line after the program; None: the real ones.

    Returns:
        The exit code: 0 if all is done; 1 if something given is wrong, which a sentence on standard error says, or if
        ``check-data`` found something wrong. An error of this package ends in a stack trace and 1.
    """
    name, *rest = sys.argv[1:] if args is None and len(sys.argv) > 1 else args or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: lk-downstream SUBCOMMAND [--OPTION VALUE ...]\n")
        print("\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()))
        print("\nlk-downstream SUBCOMMAND --help explains one of them. A first result:")
        print("lk-downstream fit --config demo_segmentation")
        return 0
    if name == "--version":
        others = ", ".join(f"{library} {_version(library)}" for library in LIBRARIES)
        print(f"lk_downstream {__version__} ({others}, Python {platform.python_version()})")
        return 0
    return run(name, rest)


def run(name: str, args: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        name: One of ``COMMANDS``.
        args: The words that follow it; None: those of the command line after the program.

    Returns:
        The exit code, see :func:`main`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of classes and files may have letters that a console lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        if name not in COMMANDS:
            raise InputError(
                f"there is no subcommand {name!r}{near_names(name, COMMANDS) or '; there are ' + ', '.join(COMMANDS)}"
            )
        module, _, function = COMMANDS[name].function.partition(":")
        return getattr(importlib.import_module(f"{__name__}.{module}"), function)(
            list(sys.argv[1:] if args is None else args)
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"
