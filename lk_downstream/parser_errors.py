"""What jsonargparse says of mistakes on the command line, in one sentence."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping

from jsonargparse import ArgumentError

from lk_downstream.errors import InputError, did_you_mean, near_names

# What other tools call an option -> what it is called here.
OTHER_NAMES = {
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), "model.optimizer.lr"),
    **dict.fromkeys(("wd", "weight_decay"), "model.optimizer.weight_decay"),
    **dict.fromkeys(("bs", "batch", "batch_size", "samples_per_gpu"), "data.batch_size"),
    **dict.fromkeys(("epochs", "num_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("steps", "iters", "max_iters", "num_steps"), "trainer.max_steps"),
    **dict.fromkeys(("gpus", "nproc_per_node", "world_size"), "trainer.devices"),
    **dict.fromkeys(("num_workers", "workers_per_gpu"), "data.workers"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "trainer.precision"),
    **dict.fromkeys(("output", "output_dir", "out", "work_dir", "work-dir", "save_dir"), "trainer.default_root_dir"),
    **dict.fromkeys(("resume", "resume_from", "load_from", "checkpoint"), "ckpt_path"),
    **dict.fromkeys(("backbone", "arch"), "model.backbone.name"),
    **dict.fromkeys(("data_root", "data_path", "root", "data-dir", "data_dir"), "data.dataset.root"),
    **dict.fromkeys(("pretrained", "finetune"), "model.backbone.weights"),
    **dict.fromkeys(("loss", "head", "optimizer", "schedule", "weights"), "model."),
    **{"seed": "seed_everything", "img_size": "data.size", "input_size": "data.size"},
}
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


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
        return _unknown_option(found[1], options)
    if re.search(r"arguments are required: .*\bmodel\b", text):
        return "there is neither model nor data: name a file of settings, as --config demo_segmentation"
    if found := re.search(r"Expected a dot import path string: ([^\s,]+)", text):
        named = re.search(r"--[\w.]+", text)
        option = named[0] if option == "--" and named else option
        if kind := re.search(r"Expected a <class '(int|float)'>", text):
            return f"{option} is {found[1]!r}: it must be {TYPES[kind[1]]}"
        if found[1][0].isdigit():
            return f"{option} is {found[1]!r}: it takes the name of a class, and a number is one of its settings"
        near = [name for name in classes if name.lower() == found[1].lower()]
        near = near or difflib.get_close_matches(found[1], list(classes), n=3, cutoff=0.6)
        hint = did_you_mean([classes[name] for name in near]) or "; give its full path, package.Class"
        return f"{option}: there is no class {found[1]!r}{hint}"
    if (literals := re.findall(r"Expected a typing\.Literal\[([^\]]+)\]", text)) and option != "--":
        given = re.search(r"(?:Given value|Got value): (.*)", text)[1]
        known = list(dict.fromkeys(re.findall(r"[^', ]+", ", ".join(literals))))
        known = ["true", "false", *known] if "Expected a <class 'bool'>" in text else known
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
    if found := re.search(r"Expected a <class '(int|float|bool|str)'>\. Got value: (.*)", text):
        return f"{option} is {found[2]!r}: it must be {TYPES[found[1]]}"
    if found := re.search(r"Expected a tuple with (\d+) elements\. Got value: (.*)", text):
        return f"{option} is {found[2]}: it takes {found[1]} values, in brackets"
    noise = r"(Parser key|Problem with|Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|$)"
    lines = [line.strip(" -") for line in text.splitlines()]
    roots = [line for line in lines if not re.match(noise, line)] or lines
    telling = [line for line in roots if not line.startswith("Expected a <class")] or roots
    root = re.sub(r"\. Got value: Namespace\(.*", "", telling[-1])
    return f"{option}: {root}" if option != "--" and not root.startswith("Parser key") else root


def _unknown_option(word: str, options: list[str]) -> str:
    if not word.startswith("-"):
        return (
            f"{word!r} belongs to no option: several values are one word in brackets, as --data.scale '[96, 128]', and "
            "one with spaces stands in quotes"
        )
    name = word.split("=")[0].lstrip("-")
    if other := OTHER_NAMES.get(name):
        return f"there is no option --{name}; here it is --{other + name if other.endswith('.') else other}"
    same = [option for option in options if option.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = did_you_mean(same[:3]) or near_names(name, options)
    hint = hint or near_names(name.split(".")[0], {option.split(".")[0] for option in options})
    return f"there is no option --{name}{hint or '; --model.help, --data.help and --trainer.help list them'}"


def imported(path: str) -> object:
    """The class, function or module of a dotted path."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(imported(module), name)
