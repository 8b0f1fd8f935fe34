"""``--model.help Segmentation`` and its like: the settings of a class, short enough to be read."""

from __future__ import annotations

import argparse
import codecs
import inspect
import locale
import os
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lk_downstream import trust
from lk_downstream.errors import InputError
from lk_downstream.parser_errors import imported

MOST = 16  # classes that are listed where any of them may stand
DESCRIPTION = """All options; --print_config prints the value of each.
Where a class stands, --OPTION.help CLASS tells its own settings, such as --model.help Segmentation.
"""


class Formatter(DefaultHelpFormatter):
    """jsonargparse's help, with the lines of the description kept, and without lists of every module of PyTorch."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text

    def add_argument(self, action: argparse.Action) -> None:
        """Add an option, unless it asks for help."""
        if not any(option.endswith(".help") for option in action.option_strings):  # the description tells of them
            super().add_argument(action)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        start, _, known = text.partition(", known subclasses: ")
        return f"{start})" if known.count(",") >= MOST else text


class Parser(LightningArgumentParser):
    """Lightning's parser with this help, also for the classes that settings name; configs are UTF-8 on every system."""

    def __init__(self, *args: Any, **kwargs: Any):
        own = {"formatter_class": Formatter, "prog": "lk-downstream", "usage": argparse.SUPPRESS}
        super().__init__(*args, **own, **kwargs)

    def parse_path(self, path: str | os.PathLike, *args: Any, **kwargs: Any) -> Namespace:
        """The settings of a file, which jsonargparse reads in the encoding of the system."""
        if codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8":
            return super().parse_path(path, *args, **kwargs)
        return self.parse_string(trust.read_text(path), os.path.basename(path), *args, **kwargs)

    def save(self, config: Namespace, path: str | os.PathLike, *, skip_none: bool = True, **kwargs: Any) -> None:
        """Write settings to a file, as one file that takes the place of an older one."""
        Path(path).write_text(self.dump(config, skip_none=skip_none), encoding="utf-8")


def completed(parser: Parser, args: Sequence[str]) -> list[str]:
    """The words of a command line with those that ask for help last, each with the name of a class.

    Everything that comes before them is parsed first, so that the classes it sets are known. A class that is not named
    is the one that is set.

    Args:
        parser: It knows the options.
        args: The subcommand and the words after it.

    Raises:
        InputError: There is no class to explain.
        SystemExit: A function stands in the place of a class and is explained here.
    """
    asked, others = _split(args)
    words = []
    for key, value in asked:
        if key == "trainer":
            words.append("--help")
            continue
        first, _, below = key.partition(".")
        known_by = {"-c", "--config", f"--{first}", f"--{first}.help"}
        if below and not known_by & {word.partition("=")[0] for word in args}:
            raise InputError(f"--{key}.help: name what it belongs to, by --config NAME or --{first} CLASS")
        value = value or _set(parser, others, key)
        if "." in value and inspect.isfunction(function := _imported(value)):
            explained = Parser(description=f"Help for --{key}.help={value}", add_help=False)
            explained.add_function_arguments(function, key, sub_configs=True, fail_untyped=False)
            explained.print_help()
            raise SystemExit(0)
        words += [f"--{key}.help", value]
    return [*others, *words]


def _split(args: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The settings that help is asked for, each with the class if one is named; and the other words."""
    asked: list[tuple[str, str | None]] = []
    others: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        option, _, value = word.partition("=")
        if not (option.startswith("--") and option.endswith(".help")):
            others.append(word)
            continue
        if not value and words and not words[0].startswith("-"):
            value = words.pop(0)
        asked.append((option[2:-5], value or None))
    return asked, others


def _set(parser: Parser, args: list[str], key: str) -> str:
    """The class that a setting has."""
    try:
        setting: Any = parser.parse_args(args)
    except ArgumentError as error:
        message = f"--{key}.help: name a class after it, such as --model.help Segmentation, or a config before it"
        raise InputError(message) from error
    owner: Any = None
    for part in (setting.subcommand, *key.split(".")):
        owner, setting = setting, setting.get("init_args", setting)
        setting = setting.get(part) if isinstance(setting, Namespace) else None
        if setting is None:
            if isinstance(owner, Namespace) and key.endswith(f".{part}"):
                _list_choices(key, owner.get("class_path"), part)
            break
    if not isinstance(setting, Namespace) or "class_path" not in setting:
        raise InputError(f"--{key}.help: {key} is {setting}, no class; name one, as in --{key}.help CLASS")
    return setting.class_path


def _list_choices(key: str, owner: str | None, argument: str) -> None:
    """Print the classes of this package that an argument of a class may have, and end; return if there are none."""
    made = _imported(owner) if owner else None
    hint = typing.get_type_hints(made.__init__).get(argument) if inspect.isclass(made) else None
    bases = [kind for kind in (typing.get_args(hint) or (hint,)) if inspect.isclass(kind)]
    own = [base for base in bases if base.__module__.startswith("lk_downstream.")]
    found = [kind for base in own for kind in (base.__subclasses__() or [base])]
    if not found:
        return
    print(f"--{key} is not set; it may be one of these, see --{key}.help CLASS:")
    for kind in found:
        print(f"  {kind.__name__:20} {inspect.getdoc(kind).splitlines()[0]}")
    raise SystemExit(0)


def _imported(path: str) -> object:
    try:
        return imported(path)
    except (ImportError, AttributeError, ValueError):  # the parser refuses it
        return None
