"""Loading of weights in any published format into a classifier, an extractor or a whole task."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from lk_downstream.backbones import files, formats, registry
from lk_downstream.backbones.extractor import Backbone
from lk_downstream.errors import InputError, near_names

# Heads of mmsegmentation files -> attributes of a task.
_HEADS = {"decode_head": "head"}

# The layers of mmsegmentation's and mmdetection's heads whose size is the number of classes.
_LAST_LAYERS = re.compile(r"\.(conv_seg|fc_cls|fc_reg|conv_logits|conv_cls|retina_cls)\.(weight|bias)$")


@dataclass
class LoadReport:
    """What :func:`load_weights` did, by names of the model's state dict (of the file's, for ``unused``).

    Attributes:
        source: where the weights came from.
        loaded: tensors that were filled.
        reshaped: those of them that had another shape in the file.
        missing: tensors of the model that stay as they were, without batch counters.
        unexpected: tensors of the file's network that the model lacks, or has in another shape.
        unused: parts of the file that the model has no place for, with the number of their tensors.
        notes: sentences, such as that a classifier for other classes was left out.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unused: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line for each thing worth knowing."""
        lines = [f"Weights from {self.source}: {len(self.loaded)} tensors loaded"]
        for what in ("reshaped", "missing", "unexpected"):
            if names := getattr(self, what):
                lines.append(f"  {what}: {_shortened(names)}")
        if self.unused:
            lines.append("  unused: " + ", ".join(f"{name} ({count})" for name, count in self.unused.items()))
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def load_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping,
    strict: bool = True,
    key: str | None = None,
    verbose: bool = True,
) -> LoadReport:
    """Load weights in any published format into ``model``; nothing is changed if they do not fit.

    Known are the authors' classification, segmentation and detection files of ConvNeXt, RepLKNet and SLaK, their
    copies by mmpretrain and mmsegmentation, timm's files (also safetensors), torchvision's and transformers' ConvNeXt,
    and this package's checkpoints. Code in a file is never run.

    A classifier for another number of classes is left out, with a note. What a file cannot have (the classifier of a
    detector's backbone, the per-level norms and heads of an ImageNet classifier) may be missing. An input convolution
    for another number of channels is adapted as timm adapts it.

    Args:
        model: a timm classifier, a :class:`Classifier`, a :class:`Backbone`, or a task, which has a ``backbone`` and
            may have a ``head`` and an ``auxiliary_head`` (mmsegmentation's decode_head and auxiliary_head).
        source: path, address, name of published weights (``in1k``, or ``convnext_tiny.in1k`` where the model has no
            name), or a state dict. ``FILE#key=model_ema`` and ``FILE#key=model_ema,strict=false`` say the next two.
        strict: refuse if any tensor of the network, or of a head that both file and model have, finds no counterpart.
            Otherwise half of the network's tensors suffice.
        key: which entry of the file to take, such as model_ema; by default state_dict, model or module, or the file.
        verbose: print the report (on the first process only).

    Raises:
        InputError: the source cannot be read, or does not fit the model.
    """
    layout = _Layout(model)
    source, options = _with_options(source)
    strict, key = options.get("strict", strict), options.get("key", key)
    checkpoint, label = _read(source, layout.name)
    try:
        state = formats.unwrap(checkpoint, key)
    except KeyError:
        raise InputError(f"{label} has no entry {key!r}{near_names(key, checkpoint)}.") from None
    published = formats.convert(state)
    renamed = _match(model, layout.rename(published))
    direct = _match(model, state)
    # A checkpoint of the very same model needs no renaming.
    match = direct if len(direct.filled) > len(renamed.filled) else renamed
    report = _judge(layout, published, match, label, strict)
    model.load_state_dict(match.filled, strict=False)
    if verbose and os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        print(report)
    return report


def _with_options(source: str | os.PathLike | Mapping) -> tuple[str | os.PathLike | Mapping, dict[str, Any]]:
    """The source without what stands behind a ``#``, and that: ``key=NAME``, ``strict=false``, or both with a comma."""
    if not isinstance(source, str) or "#" not in source or os.path.exists(source):
        return source, {}
    path, _, text = source.rpartition("#")
    options: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name == "key" and value:
            options["key"] = value
        elif name == "strict" and value in ("true", "false"):
            options["strict"] = value == "true"
        else:
            raise InputError(
                f"{source}: behind # stand key=NAME, the entry of the file, strict=false, which loads what fits, or "
                f"both with a comma, and not {part!r}"
            )
    return path, options


def _read(source: str | os.PathLike | Mapping, architecture: str) -> tuple[Mapping, str]:
    """The content of ``source``, and what to call it in messages."""
    if isinstance(source, Mapping):
        return source, "a state dict"
    source = os.fspath(source)
    model, _, name = source.partition(".")
    if weights := registry.find(architecture, source) or registry.find(model, name):
        source = weights.url
    elif not files.looks_like_a_file(source):
        raise registry.unknown(architecture, source)
    elif model in registry.PUBLISHED and not os.path.exists(source) and not os.path.splitext(name)[1]:
        raise registry.unknown(model, name)
    return files.read(source), source


class _Layout:
    """Where the network, its norms and the heads stand in the state dict of a model, and what each tensor is."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.owner = ""  # in front of the extractor's norms
        network = model
        for name in ("backbone", "model", "network"):
            if not isinstance(model, Backbone) and isinstance(getattr(model, name, None), nn.Module):
                self.owner, network = f"{name}.", getattr(model, name)
                break
        self.extractor = network if isinstance(network, Backbone) else None
        wrapped = isinstance(getattr(network, "body", None), nn.Module)  # a Backbone or a Classifier
        self.network = network.body if wrapped else network
        self.prefix = f"{self.owner}body." if wrapped else self.owner
        self.name = self.extractor.name if self.extractor else _architecture(self.network)
        self.heads = _HEADS if hasattr(model, "head") else {}
        # What the model has beside the network: its heads, a neck, ...
        self.parts = {key.split(".", 1)[0] for key in model.state_dict() if self.owner} - {self.owner.rstrip(".")}
        cfg = getattr(self.network, "pretrained_cfg", {})
        self.classifier = _names(cfg.get("classifier"))
        self.input_convs = tuple(f"{self.prefix}{name}.weight" for name in _names(cfg.get("first_conv")))

    def rename(self, published: formats.Published) -> dict[str, Tensor]:
        """The tensors of a file by the names that they would have in the model."""
        renamed = {}
        for key, value in published.network.items():
            level_norm = self.extractor is not None and re.match(r"norm[0-3]\.", key)
            renamed[(self.owner if level_norm else self.prefix) + key] = value
        for part, tensors in published.parts.items():
            name = self.heads.get(part, part)
            if name in self.parts:
                renamed |= {key.replace(part, name, 1): value for key, value in tensors.items()}
        return renamed

    def role(self, key: str) -> str:
        """What the tensor ``key`` of the model (or one that it lacks) is: ``network``, ``classifier``, ``neck``, ..."""
        if re.match(rf"{self.owner}norm[0-3]\.", key):
            return "level norms"
        if not key.startswith(self.prefix):
            return key.split(".", 1)[0]
        inner = key.removeprefix(self.prefix)
        if inner.startswith(tuple(f"{name}." for name in (*self.classifier, "head.fc", "head"))):
            return "final norm" if inner.startswith("head.norm.") else "classifier"
        if inner.startswith("norm."):
            return "final norm"
        if re.match(r"stages\.\d\.norm\.", inner):
            return "level norms"
        if self.extractor and (stage := re.match(r"(?:stages|downsample_layers|transitions)\.(\d)\.", inner)):
            top = self.extractor.levels[-1] - inner.startswith("transitions.")
            return "later stages" if int(stage[1]) > top else "network"
        return "network"


@dataclass
class _Match:
    """Tensors of a file that fit a model, by the model's names, and those that do not."""

    filled: dict[str, Tensor] = field(default_factory=dict)
    reshaped: list[str] = field(default_factory=list)
    other_shape: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)


def _match(model: nn.Module, renamed: Mapping[str, Tensor]) -> _Match:
    match, target, convs = _Match(), model.state_dict(), _Layout(model).input_convs
    for key, value in renamed.items():
        wanted = target.get(key)
        if wanted is None:
            match.extra.append(key)
            continue
        if value.shape != wanted.shape:
            if tuple(n for n in value.shape if n > 1) == tuple(n for n in wanted.shape if n > 1):
                value = value.reshape(wanted.shape)  # a linear layer as 1 x 1 convolution, or the reverse
            elif key in convs and value.ndim == 4 and value.shape[1] == 3:
                value = adapt_input_conv(wanted.shape[1], value)
            if value.shape != wanted.shape:
                match.other_shape[key] = f"{tuple(value.shape)} in the file, {tuple(wanted.shape)} in the model"
                continue
            match.reshaped.append(key)
        match.filled[key] = value
    return match


def _judge(layout: _Layout, published: formats.Published, match: _Match, label: str, strict: bool) -> LoadReport:
    """The report of a match, or an error if it is a poor one."""
    report = LoadReport(label, list(match.filled), match.reshaped)
    in_model = {layout.role(key) for key in layout.model.state_dict()}
    in_file = {layout.role(key) for key in (*match.filled, *match.other_shape, *match.extra)}
    for key in match.extra:
        role = layout.role(key)
        if role == "level norms" or role not in in_model:
            report.unused[role] = report.unused.get(role, 0) + 1
        else:
            report.unexpected.append(key)
    for part, tensors in published.parts.items():
        if layout.heads.get(part, part) not in layout.parts:
            report.unused[part] = len(tensors)
    other_classes = set()
    for key, shapes in match.other_shape.items():
        if layout.role(key) == "classifier" or _LAST_LAYERS.search(key):
            other_classes.add(key)
            if key.endswith(".weight"):
                report.notes.append(f"{key} left out: it is for other classes ({shapes})")
        else:
            report.unexpected.append(f"{key} {shapes}")
    absent = [key for key in layout.model.state_dict() if key not in match.filled]
    report.missing = [key for key in absent if not key.endswith("num_batches_tracked")]
    # What a file of another purpose cannot have may be missing, but only as a whole.
    needed = in_file | {"network"}
    lacking = [key for key in report.missing if layout.role(key) in needed and key not in other_classes]
    wrong = [*report.unexpected, *lacking]
    network = [key for key in layout.network.state_dict() if layout.role(layout.prefix + key) == "network"]
    share = sum(layout.prefix + key in match.filled for key in network) / max(len(network), 1)
    if (strict and wrong) or share < 0.5:
        counts = f"{len(match.filled)} tensors fit, {len(report.unexpected)} do not, {len(lacking)} are lacking"
        raise InputError(
            f"{label} does not fit {layout.name} ({counts}, such as {_shortened(wrong, 3)}): the file looks like "
            f"{formats.describe(published.network)}; the model is {formats.describe(layout.network.state_dict())}"
            f"{_merge_hint(published, layout)}"
            f"{'; strict=False loads what fits, on a command line FILE#strict=false' if share >= 0.5 else ''}."
        )
    return report


def _merge_hint(published: formats.Published, layout: _Layout) -> str:
    merged = [any("reparam" in key for key in state) for state in (published.network, layout.network.state_dict())]
    if merged == [True, False]:
        return "; merged weights need a model that is merged before loading (lk_downstream.reparameterize)"
    if merged == [False, True]:
        return "; load the weights first and merge the model afterwards"
    return ""


def _architecture(network: nn.Module) -> str:
    return getattr(network, "pretrained_cfg", {}).get("architecture") or type(network).__name__


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _shortened(names: list[str], count: int = 4) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
