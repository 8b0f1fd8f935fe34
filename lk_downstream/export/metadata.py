"""What an exported file says of itself, in ONNX's ``metadata_props`` and in a JSON file within a ``.pt2``.

Of both forms the names are the same. Values that are no texts are written as JSON.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch
from torch import nn

from lk_downstream import __version__
from lk_downstream.data.classes import bright_palette, default_palette
from lk_downstream.export.networks import Network

FORMAT = 1  # of these entries
FILE = "metadata.json"  # within a .pt2
TEXTS = ("description", "kind", "model", "license", "command", "created", "input")  # all others are JSON
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime")


def of(model: nn.Module, network: Network, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The entries for a file.

    Args:
        model: the task, detector or classifier.
        network: what is exported of it.
        about: further entries, which win: ``license``, ``command``, ``classes``, ``palette``.

    Returns:
        ``format``; ``description``, a sentence; ``kind``; ``model``, its name; ``input`` and ``outputs``, what goes in
        and comes out; ``channels``; ``classes``; ``palette``, a colour of 0 to 255 for each class; ``mean`` and ``std``
        of grey levels 0..1; ``resize`` and ``decide``, which steps are inside; ``preparation``, how images are resized;
        ``precision``; ``notes``; ``license`` of the weights, if it is known; ``command``; ``versions``; ``created``.
    """
    number = getattr(network, "number", None) or getattr(model, "num_classes", None)
    classes = list(getattr(model, "classes", ())) or [f"class {i}" for i in range(number or 0)]
    colours = bright_palette if network.kind == "detection" else default_palette
    size = "of any size" if network.inside.resize else "as the network sees them"
    known = dict(getattr(model, "preparation", None) or {})
    entries: dict[str, Any] = {
        "format": FORMAT,
        "description": f"{network.kind} by lk_downstream {__version__}: uint8 {_colours(network.channels)} images "
        f"(N, {network.channels}, H, W) {size} -> {', '.join(network.names)}",
        "kind": network.kind,
        "model": _name(model),
        "input": f"images: uint8 (N, {network.channels}, H, W), {_colours(network.channels)}, {size}",
        "outputs": network.meanings,
        "channels": network.channels,
        "classes": classes,
        "palette": [list(colour) for colour in known.pop("palette", None) or colours(len(classes))],
        "mean": list(network.normalization[0]),
        "std": list(network.normalization[1]),
        "resize": network.inside.resize,
        "decide": network.inside.decide,
        "preparation": known | network.settings,
        "precision": str(network.dtype).removeprefix("torch."),
        "notes": network.notes,
        "license": (getattr(model, "pretrained_cfg", None) or {}).get("license") or "unknown",
        "command": "",
        "versions": {"lk_downstream": __version__, "python": platform.python_version()} | _versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return entries | dict(about or {})


def to_texts(entries: Mapping[str, Any]) -> dict[str, str]:
    """Entries as texts alone, for ONNX."""
    return {name: value if name in TEXTS else json.dumps(value) for name, value in entries.items()}


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The contrary of :func:`to_texts`; what is no JSON stays a text."""
    entries: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            entries[name] = text if name in TEXTS else json.loads(text)
        except (ValueError, RecursionError):
            entries[name] = text
    return entries


def to_json(entries: Mapping[str, Any]) -> str:
    """Entries as one text, for a ``.pt2``."""
    return json.dumps(dict(entries), indent=1)


def _colours(channels: int) -> str:
    return "RGB" if channels == 3 else f"{channels}-channel"


def _name(model: nn.Module) -> str:
    backbone = getattr(model, "backbone", model)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    name = getattr(backbone, "name", None) or cfg.get("architecture") or type(backbone).__name__
    detector = getattr(model, "detector", None)
    head = getattr(model, "head", None) if hasattr(model, "auxiliary_head") else detector
    return f"{type(head).__name__} {name}" if head is not None else str(name)


def _versions() -> dict[str, str]:
    found = {"torch": torch.__version__}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found
