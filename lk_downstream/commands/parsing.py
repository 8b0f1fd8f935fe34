"""Words of the command line to options, by jsonargparse: a file of them by ``--config``, ``--print_config`` for all."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace, auto_cli

from lk_downstream.errors import InputError
from lk_downstream.parser_errors import explain


def new_parser(name: str, description: str) -> ArgumentParser:
    """A parser of a subcommand, whose mistakes :func:`parse` says in a sentence.

    Args:
        name: Of the subcommand.
        description: For the help, with its lines as they are.
    """
    options = {"prog": f"lk-downstream {name}", "description": description, "exit_on_error": False}
    parser = ArgumentParser(**options, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action=ActionConfigFile, help="a file with these options")
    return parser


def parse(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """The options of a command line.

    Raises:
        InputError: A word is wrong.
    """
    try:
        return parser.parse_args(list(args))
    except ArgumentError as error:
        raise InputError(explain(error, list(parser.get_defaults().keys()))) from error


def call(
    name: str,
    function: Callable[..., int],
    args: Sequence[str],
    classes: Mapping[str, str] | None = None,
    as_positional: bool = True,
) -> int:
    """Call a function whose arguments are the options; returns what it returns.

    Args:
        name: Of the subcommand.
        function: Its docstring is the help.
        args: Words of the command line.
        classes: See :func:`lk_downstream.parser_errors.explain`.
        as_positional: Whether arguments without a default are words without an option's name.

    Raises:
        InputError: A word is wrong.
    """
    options: dict[str, Any] = {"prog": f"lk-downstream {name}", "exit_on_error": False, "as_positional": as_positional}
    try:
        return auto_cli(function, args=list(args), **options)
    except ArgumentError as error:
        raise InputError(explain(error, list(inspect.signature(function).parameters), classes)) from error
