"""A trained model from whatever holds one: a checkpoint, a run's folder, an exported file, a name on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lk_downstream import trust
from lk_downstream.errors import InputError
from lk_downstream.inference.model import Network, Predictor, predictor

HUB = "hf-hub:"
EXPORTED = (".onnx", ".pt2")
SHARED = "model.safetensors"  # the file by which a folder is known as one that was shared


class Opened(NamedTuple):
    """What a source holds: the network in eval mode on ``device``, and how its images are prepared."""

    network: Network
    preparation: dict[str, Any]


def load(
    source: str | os.PathLike,
    device: str | torch.device | None = None,
    trusted: Iterable[str] = (),
    batch_pixels: int | None = None,
) -> Predictor:
    """A trained model, ready to predict.

    What it reads is data: nothing in a file is run, and a recipe may name the classes of
    :data:`lk_downstream.trust_recipes.CLASSES` alone.

    Args:
        source: A checkpoint; the folder of a run (its best checkpoint); an exported file (``.onnx``, ``.pt2``); a
            folder that ``push`` has written; or ``hf-hub:user/name``.
        device: Where it computes, such as ``cuda:1``; None: the GPU if there is one, else the CPU.
        trusted: Full names of other classes that the recipe may name, such as those of your own heads and losses.
        batch_pixels: How many pixels of prepared images pass the network at once, which bounds the memory; None: what
            fits most GPUs, and one image on a CPU, see :class:`Predictor`.

    Raises:
        InputError: There is no such file or folder, or it holds no model.
    """
    chosen = _device(device)
    name = os.fspath(source)
    found = opened(name, chosen, trusted)
    try:
        return predictor(found.network, found.preparation, chosen, batch_pixels)
    except InputError as error:
        raise InputError(f"{name} {error}" if str(error).startswith("has ") else str(error)) from error


def opened(source: str | os.PathLike, device: torch.device, trusted: Iterable[str] = ()) -> Opened:
    """What a source holds, see :func:`load`."""
    name = os.fspath(source)
    return next(open_ for fits, open_ in SOURCES if fits(name))(name, device, tuple(trusted))


def _device(device: str | torch.device | None) -> torch.device:
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return torch.device(next(kind for kind, there in kinds.items() if there))
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        known = ", ".join(kind for kind, there in kinds.items() if there)
        raise InputError(
            f"device {device!r} is not here ({str(error).splitlines()[0]:.100}); there is {known}"
        ) from None
    return chosen


def _hub(name: str, device: torch.device, trusted: tuple[str, ...]) -> Opened:
    from lk_downstream import sharing

    return _folder(os.fspath(sharing.fetch(name.removeprefix(HUB))), device, trusted)


def _exported(path: str, device: torch.device, trusted: tuple[str, ...]) -> Opened:
    from lk_downstream import exported

    found = exported.open_exported(path, device=device)
    settings = found.metadata.get("preparation")
    settings = dict(settings) if isinstance(settings, dict) else {}
    return Opened(found, settings | {"palette": found.metadata.get("palette"), "inside": found.resizes})


def _folder(path: str, device: torch.device, trusted: tuple[str, ...]) -> Opened:
    if (Path(path) / SHARED).is_file():
        from lk_downstream import sharing

        return _task(sharing.read_folder(path), path, device, trusted)  # the content of a checkpoint
    from lk_downstream.analysis.models import checkpoint_of

    return _checkpoint(os.fspath(checkpoint_of(path)), device, trusted)


def _checkpoint(path: str, device: torch.device, trusted: tuple[str, ...]) -> Opened:
    from lk_downstream.backbones.files import read

    return _task(read(path), path, device, trusted)


def _task(content: dict[str, Any], label: str, device: torch.device, trusted: tuple[str, ...]) -> Opened:
    """The task of what a checkpoint holds: ``recipe``, ``state_dict`` and, of newer ones, ``preparation``."""
    from lk_downstream.tasks.loading import task_of

    task = task_of(content, label, trusted)
    if task.channels_last:
        task.to(memory_format=torch.channels_last)
    preparation = content.get("preparation")
    return Opened(task.to(device), preparation if isinstance(preparation, dict) else _of_config(label))


def _of_config(checkpoint: str) -> dict[str, Any]:
    """How a run of an older version has prepared its images, as its ``config.yaml`` says; its values alone are read."""
    path = Path(checkpoint).absolute().parent.parent / "config.yaml"
    try:
        settings = trust.read_yaml(path)["data"]["init_args"]
        size = settings.get("val_size") or settings.get("size")
        return {"scale": settings.get("scale"), "size": size, "crop": settings.get("crop")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# What opens a source, by the first that fits.
SOURCES: tuple[tuple[Callable[[str], bool], Callable[..., Opened]], ...] = (
    (lambda name: name.startswith(HUB), _hub),
    (lambda name: Path(name).is_dir(), _folder),
    (lambda name: name.lower().endswith(EXPORTED), _exported),
    (lambda name: True, _checkpoint),
)
