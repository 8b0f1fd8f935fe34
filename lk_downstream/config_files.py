"""The configs that come with the package, by name, and the files of settings that a command line names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lk_downstream import trust
from lk_downstream.errors import InputError, near_names

SUFFIXES = ("", ".yaml")


def folder() -> Path:
    """Where the configs lie: in the package if it was installed from a wheel, beside it in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """The names of the configs, without suffix."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def studies() -> list[str]:
    """The names of the studies that come with the package, see ``lk-downstream study --study NAME``."""
    return sorted(path.stem for path in (folder() / "studies").glob("*.yaml"))


def find(name: str) -> Path:
    """The file that a user means: a path, a file of the current folder, or a config of the package by its name.

    Args:
        name: With or without the suffix ``.yaml``.

    Raises:
        InputError: There is none; near names are given.
    """
    places = [Path(), folder()] if Path(name).name == name else [Path()]
    candidates = [place / f"{name}{suffix}" for place in places for suffix in SUFFIXES]
    for path in candidates:
        if os.path.isfile(path):  # False, where Path's own raises, for what cannot be a file's name
            return path
    if os.path.isdir(name):
        raise InputError(f"--config: {name} is a folder; name a file in it")
    beside = [path.name for path in Path(name).absolute().parent.glob("*.y*ml")]
    stem = Path(name).name.removesuffix(".yaml")
    hint = near_names(Path(name).name, beside) or near_names(stem, names())
    hint = hint or "; name a file of settings or one of the configs that lk-downstream fit --help lists"
    raise InputError(f"--config: there is no file {name}{hint}")


def find_study(name: str) -> Path:
    """The study file that a user means: a path, or one of the package by its name.

    Raises:
        InputError: There is none; near names are given.
    """
    for path in (Path(name), Path(f"{name}.yaml"), folder() / "studies" / f"{name}.yaml"):
        if path.is_file():
            return path
    raise InputError(f"--study: there is no file {name}{near_names(name, studies()) or f'; there are {studies()}'}")


def resolve(args: Sequence[str]) -> list[str]:
    """The words of a command line with the files that ``--config`` names in place of names.

    Raises:
        InputError: A file is not there, is no YAML, or is empty, or is named without ``--config``.
    """
    words = list(args)
    if words and words[0] and not words[0].startswith("-"):
        raise InputError(f"{words[0]} stands alone: a file of settings, or a config's name, is --config {words[0]}")
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            continue
        if equals:
            words[place] = f"{option}={_checked(value)}"
        elif place + 1 < len(words):
            words[place + 1] = str(_checked(words[place + 1]))
    return words


def _checked(name: str) -> Path:
    path = find(name)
    if path.suffix == ".py":
        raise InputError(
            f"--config: {path} is a program, as mmsegmentation's and mmdetection's configs are, which is not run: take "
            "a config that lk-downstream fit --help lists, and weights of such a model by --model.weights FILE"
        )
    try:
        content = trust.read_yaml(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--config: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"--config: {path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config: {path} holds no settings, such as `trainer: {{max_steps: 100}}`")
    return path
