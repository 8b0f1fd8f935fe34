"""What jsonargparse says of mistakes on the command line, in one sentence."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping

from jsonargparse import ArgumentError

from lk_downstream.errors import InputError, did_you_mean, near_names


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
        return "there is neither model nor data: name a file of settings, as --config demo_segmentation"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        near = [classes[name] for name in difflib.get_close_matches(found[1], list(classes), n=3, cutoff=0.6)]
        named = re.search(r"--[\w.]+", text)
        option = named[0] if option == "--" and named else option
        return f"{option}: there is no class {found[1]!r}{did_you_mean(near) or '; give its full path, package.Class'}"
    if (literals := re.findall(r"Expected a typing\.Literal\[([^\]]+)\]", text)) and option != "--":
        given = re.search(r"(?:Given value|Got value): (.*)", text)[1]
        known = list(dict.fromkeys(re.findall(r"[^', ]+", ", ".join(literals))))
        return f"{option} is {given!r}: it must be one of {', '.join(known)}{near_names(given, known)}"
    if found := re.search(r"Option '([^']+)' is not accepted(?:. Got value: Namespace\(class_path='([^']+)')?", text):
        path = found[2] or re.findall(r"class_path '([^']+)'", text[: found.start()])[-1]
        parameters = inspect.signature(imported(path)).parameters
        known = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
        hint = near_names(found[1], known) or f"; it has {', '.join(known)}"
        if len(known) < len(parameters):
            hint += f" (arguments that it passes on: {option}.dict_kwargs.{found[1]})"
        return f"{option}: {path.rsplit('.')[-1]} has no option {found[1]!r}{hint}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        return f"{option}: there is no {found[2]!r} in {found[1]}{near_names(found[2], dir(imported(found[1])))}"
    if "(implicit class_path)" in text:
        named = re.search(r"--[\w.]+", text)
        remedy = ": take PixelCrossEntropy and its class_weight" if (option + str(named)).count("loss") else ""
        return f"{named[0] if option == '--' and named else option} takes an object, which no setting can give{remedy}"
    noise = r"(Parser key|Problem with|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$)"
    lines = [line.strip(" -") for line in text.splitlines()]
    roots = [line for line in lines if not re.match(noise, line)] or lines
    telling = [line for line in roots if not line.startswith("Expected a <class")] or roots
    root = re.sub(r"\. Got value: Namespace\(.*", "", telling[-1])
    return f"{option}: {root}" if option != "--" and not root.startswith("Parser key") else root


def imported(path: str) -> object:
    """The class, function or module of a dotted path."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(imported(module), name)
