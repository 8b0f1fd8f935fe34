"""Trained models as folders that others can load, and their way to the Hugging Face Hub and from it.

A folder holds ``model.safetensors``, ``recipe.json`` (the recipe, how images are prepared, the version of the format:
data, of which nothing is run), ``README.md`` (the model card) and images. A classifier, or a backbone alone, also has
timm's ``config.json`` and timm's names of the tensors, so that ``timm.create_model("hf-hub:...")`` loads it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from lk_downstream import __version__, trust
from lk_downstream.backbones.files import read
from lk_downstream.errors import InputError
from lk_downstream.model_card import write_card
from lk_downstream.tasks import Task
from lk_downstream.tasks.checkpoint_format import VERSION, check_format
from lk_downstream.tasks.loading import task_of

WEIGHTS, RECIPE, CARD = "model.safetensors", "recipe.json", "README.md"
CLASSIFIER = "backbone.body."  # where a classification task has what timm saves
FOLDER = "LK_HUB_FOLDER"  # environment variable: a folder that stands in for the Hub, with user/name below it
FETCHED = ["*.safetensors", "*.json", CARD]
IMAGES = ("predictions.png", "curves.png", "confusion_matrix.png")  # of a run, for the card
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

Part = Literal["model", "backbone"]


# ---------------------------------------------------------------- folders


def write_folder(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    name: str,
    part: Part = "model",
    license: str | None = None,
    trusted: Iterable[str] = (),
) -> Path:
    """Write what is shared of a run.

    Args:
        source: a run's folder (its best checkpoint), or a checkpoint.
        folder: where to write; it must be empty or not there.
        name: ``user/name`` on the Hub, for the card's example.
        part: the whole model, or its backbone alone in timm's format.
        license: of the weights, for the card; None: unknown.
        trusted: see :func:`lk_downstream.tasks.load_task`.

    Raises:
        InputError: there is no such run, or the folder holds files.
    """
    from lk_downstream.analysis.models import checkpoint_of

    check_name(name)
    checkpoint, folder = checkpoint_of(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: give another folder")
    content = read(checkpoint)
    task = task_of(content, checkpoint, trusted)
    run = checkpoint.absolute().parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    if part == "backbone":
        _save_timm(_whole_backbone(task), task, folder)
    else:
        prefix = CLASSIFIER if _is_classifier(task) else ""
        if prefix:
            _save_timm(task.backbone.body, task, folder)
        else:
            _save_tensors(task.state_dict(), folder / WEIGHTS)
        entries = {
            "format": VERSION,
            "recipe": content["recipe"],
            "preparation": content.get("preparation"),
            "prefix": prefix,
            "versions": {"lk_downstream": __version__, "torch": torch.__version__},
        }
        (folder / RECIPE).write_text(json.dumps(entries, indent=1), encoding="utf-8")
    images = [image for image in IMAGES if (run / image).is_file()] if part == "model" else []
    for image in images:
        shutil.copyfile(run / image, folder / image)
    write_card(folder / CARD, task, name, run, part, license, images)
    return folder


def read_folder(folder: str | os.PathLike) -> dict[str, Any]:
    """What a checkpoint holds, from a folder that :func:`write_folder` has written: data, of which nothing is run.

    Raises:
        InputError: files are missing, damaged, or of a newer version.
    """
    folder = Path(folder)
    path = folder / RECIPE
    if not path.is_file():
        what = "a backbone for timm.create_model" if (folder / "config.json").is_file() else "no model of lk_downstream"
        raise InputError(f"{folder} has no {RECIPE}: it holds {what}")
    try:
        entries = trust.read_json(path)
        if not isinstance(entries, dict):
            raise ValueError("no object")
        check_format(entries, path)
        prefix = entries.get("prefix", "")
        if prefix not in ("", CLASSIFIER):
            raise ValueError(f"prefix {prefix!r:.50}")
        tensors = trust.load_safetensors(folder / WEIGHTS)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{folder} is damaged ({what}): fetch it again") from error
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    return {**{key: entries.get(key) for key in ("format", "recipe", "preparation")}, "state_dict": state}


def _is_classifier(task: Task) -> bool:
    return all(name.startswith(CLASSIFIER) for name in task.state_dict())


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # Contiguous copies, as safetensors takes neither channels-last tensors nor two that share memory.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def _save_timm(model: torch.nn.Module, task: Task, folder: Path) -> None:
    """The form of timm itself: ``config.json`` and ``model.safetensors``."""
    from timm.models import save_for_hf

    backbone = task.backbone
    known = {"mean": list(backbone.mean), "std": list(backbone.std)}
    settings = task.preparation or {}
    config: dict[str, Any] = {"pretrained_cfg": known}
    if _is_classifier(task):
        if settings.get("size"):
            known["input_size"] = [len(backbone.mean), settings["size"], settings["size"]]
        if settings.get("crop"):
            known["crop_pct"] = settings["crop"]
        config["label_names"] = list(task.classes)
    model = model.to(memory_format=torch.contiguous_format)
    save_for_hf(model, folder, config, _model_args(task), safe_serialization=True)


def _whole_backbone(task: Task) -> torch.nn.Module:
    """The model of timm without classifier, with the weights of an extractor of a task."""
    import timm

    if _is_classifier(task):
        model = task.backbone.body
        model.reset_classifier(0)
        return model
    own = task.backbone.body.state_dict()
    model = timm.create_model(task.backbone.name, num_classes=0, **_model_args(task))
    lacking, unknown = model.load_state_dict(own, strict=False)
    if unknown:
        raise InputError(f"{task.backbone.name} is changed so that timm cannot make it: {unknown[0]} is not in timm's")
    for name, parameter in model.named_parameters():  # a last norm, which no extractor has
        if name in lacking and parameter.ndim > 1:
            raise InputError(f"{task.backbone.name} lacks {name}, without which it is no backbone of timm's")
    return model


def _model_args(task: Task) -> dict[str, Any]:
    """Arguments by which the network differs from its name's default."""
    recipe = task.recipe["init_args"]["backbone"]
    options = dict(recipe.get("dict_kwargs") or {})
    if (channels := recipe["init_args"].get("in_chans", 3)) != 3:
        options["in_chans"] = channels
    return options


# ---------------------------------------------------------------- the Hub


def check_name(name: str) -> str:
    """A name on the Hub, ``user/name``.

    Raises:
        InputError: It is none.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".")):
        raise InputError(f"{name!r:.100} is no name on the Hub: give user/name, of letters, digits, -, _ and .")
    return name


def push(folder: str | os.PathLike, name: str, private: bool = False) -> str:
    """Upload a folder; returns its address.

    Args:
        folder: see :func:`write_folder`.
        name: ``user/name``; made if it is not there.
        private: whether others cannot see it, if it is made.

    Raises:
        InputError: the Hub cannot be reached, or refuses (no token, no such user).
    """
    check_name(name)
    if hub := os.environ.get(FOLDER):
        target = Path(hub) / name
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(folder, target)
        return os.fspath(target)
    from huggingface_hub import HfApi

    api = HfApi(library_name="lk_downstream", library_version=__version__)
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=os.fspath(folder), commit_message="Model of lk_downstream")
    except Exception as error:  # of the client, the network and the server, of many classes
        raise InputError(
            f"{name} cannot be uploaded ({_reason(error)}): log in by `hf auth login` with a token that may write, and "
            f"see that you may write to {name.split('/')[0]}"
        ) from error
    return str(address)


def fetch(name: str) -> Path:
    """The folder of a model on the Hub, downloaded unless it lies in the client's cache.

    Args:
        name: ``user/name``, perhaps with ``@`` and a branch, tag or commit.

    Raises:
        InputError: there is none, or no connection.
    """
    name, _, revision = name.partition("@")
    check_name(name)
    if hub := os.environ.get(FOLDER):
        if not (Path(hub) / name).is_dir():
            raise InputError(f"there is no {name} in {hub}, the folder that {FOLDER} names in place of the Hub")
        return Path(hub) / name
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=FETCHED))
    except Exception as error:  # of the client, the network and the server, of many classes
        raise InputError(
            f"hf-hub:{name} cannot be fetched ({_reason(error)}): check the name and the connection, and for private "
            "models log in by `hf auth login`"
        ) from error


def share(
    source: str | os.PathLike,
    name: str,
    part: Part = "model",
    license: str | None = None,
    private: bool = False,
    output: str | os.PathLike | None = None,
) -> str:
    """Write what is shared of a run, and upload it unless ``output`` names a folder for it; returns where it is."""
    if output is not None:
        return os.fspath(write_folder(source, output, name, part, license))
    with tempfile.TemporaryDirectory() as folder:
        return push(write_folder(source, Path(folder) / "model", name, part, license), name, private)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
