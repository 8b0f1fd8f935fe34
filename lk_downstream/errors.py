"""Errors that a user can mend, said in one sentence."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentError, auto_cli


class InputError(ValueError):
    """Something given from outside (a file, an option, a data set) is wrong.

    The message is one sentence that names the file or option and the remedy. The command line prints it without
    a stack trace and exits with 1.
    """

    def __init__(self, message: str):
        # A data-loader worker hands its error over as text: "Caught InputError in DataLoader worker process 0.",
        # the worker's stack trace, and the sentence last.
        name = type(self).__name__
        if message.startswith(f"Caught {name}"):
            message = message.rstrip().rsplit(f"{name}: ", 1)[-1]
        super().__init__(message)


class DamagedFile(InputError):
    """A file of a data set cannot be read to its end; a training may go on without it, see ``data.skip_damaged``."""


def near_names(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'slak_tiny'?``, or an empty string if nothing in ``known`` is near ``name``."""
    return _hint(difflib.get_close_matches(name, list(known), n=3, cutoff=0.6))


def some(values: Iterable[Any], count: int = 5) -> str:
    """The first of some values, for a message, such as ``a, b, ...``."""
    values = list(values)
    return ", ".join(map(str, values[:count])) + (", ..." if len(values) > count else "")


def _hint(near: list[str]) -> str:
    return f"; did you mean {' or '.join(repr(item) for item in near)}?" if near else ""


def explain(error: BaseException, options: Iterable[str] = (), classes: Mapping[str, str] | None = None) -> str | None:
    """What a user has to know of an error: its root cause in a sentence, or None if it is not the user's mistake.

    Args:
        error: What was raised, perhaps by way of jsonargparse or Lightning.
        options: The options of the command line, to suggest near ones from.
        classes: Likewise the classes: name -> how it is written in a setting.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, InputError):
            return str(link)
    # What a class refuses when it is made comes as a plain ValueError with the parser's words around it.
    if any(isinstance(link, ArgumentError) for link in chain) or str(error).startswith("Does not validate against"):
        return _parser_error(str(error), list(options), classes or {})
    return None


def run_tool(tool: Callable[..., int], classes: Mapping[str, str] | None = None, **options: Any) -> int:
    """Call a function with the words of the command line; the exit code is 1, after a sentence, for a mistake in them.

    Args:
        tool: Its arguments are the options.
        classes: See :func:`explain`.
        **options: Those of jsonargparse's ``auto_cli``.
    """
    try:
        return auto_cli(tool, exit_on_error=False, **options)
    except (InputError, ArgumentError) as error:
        print(f"error: {explain(error, (), classes)}", file=sys.stderr)
        return 1


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _parser_error(text: str, options: list[str], classes: Mapping[str, str]) -> str:
    """The root of jsonargparse's message, which nests the refusals of every type and class that it tried."""
    option = "--" + ".".join(re.findall(r'Parser key "([^"]+)"', text))
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        name = found[1].split("=")[0].lstrip("-")
        group = name.split(".")[0]
        hint = near_names(name, options) or near_names(group, {option.split(".")[0] for option in options})
        return f"there is no option --{name}{hint}"
    if re.search(r"arguments are required: .*\bmodel\b", text):
        return "there is neither model nor data: name a file of settings, as --config configs/demo_segmentation.yaml"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        near = [classes[name] for name in difflib.get_close_matches(found[1], list(classes), n=3, cutoff=0.6)]
        return f"{option}: there is no class {found[1]!r}{_hint(near) or '; give its full path, package.Class'}"
    if (literals := re.findall(r"Expected a typing\.Literal\[([^\]]+)\]", text)) and option != "--":
        given = re.search(r"(?:Given value|Got value): (.*)", text)[1]
        known = list(dict.fromkeys(re.findall(r"[^', ]+", ", ".join(literals))))
        return f"{option} is {given!r}: it must be one of {', '.join(known)}{near_names(given, known)}"
    if found := re.search(r"Option '([^']+)' is not accepted(?:. Got value: Namespace\(class_path='([^']+)')?", text):
        path = found[2] or re.findall(r"class_path '([^']+)'", text[: found.start()])[-1]
        parameters = inspect.signature(_imported(path)).parameters
        known = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
        hint = near_names(found[1], known) or f"; it has {', '.join(known)}"
        if len(known) < len(parameters):
            hint += f" (arguments that it passes on: {option}.dict_kwargs.{found[1]})"
        return f"{option}: {path.rsplit('.')[-1]} has no option {found[1]!r}{hint}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        return f"{option}: there is no {found[2]!r} in {found[1]}{near_names(found[2], dir(_imported(found[1])))}"
    noise = r"(Parser key|Problem with|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$)"
    lines = [line.strip(" -") for line in text.splitlines()]
    roots = [line for line in lines if not re.match(noise, line)] or lines
    telling = [line for line in roots if not line.startswith("Expected a <class")] or roots
    root = re.sub(r"\. Got value: Namespace\(.*", "", telling[-1])
    return f"{option}: {root}" if option != "--" and not root.startswith("Parser key") else root


def _imported(path: str) -> object:
    """The class, function or module of a dotted path."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(_imported(module), name)
