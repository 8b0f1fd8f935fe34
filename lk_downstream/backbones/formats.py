"""Names of tensors in published files -> names in the models of this package.

A published state dict is brought into one form, :class:`Published`: ``network`` holds the backbone with the keys of the
model here (RepLKNet and SLaK: the authors', ConvNeXt: timm's), with ``norm0`` to ``norm3`` where the file has per-level
norms and with the classifier where it has one; ``parts`` holds everything else by its first name (``decode_head``,
``neck``, ...) with the keys of the file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lk_downstream.backbones.foreign import to_timm

# A state dict is wrapped under one of these keys, tried in this order; the authors of all three families start
# downstream training from weights that are not averaged, so `model_ema` comes last.
CONTAINERS = ("state_dict", "model", "module", "model_ema", "state_dict_ema")

# What trainers and wrappers put in front of every name.
WRAPPERS = ("module.",)

# Under what name a trained network stands in a larger state dict.
NETWORKS = ("backbone.", "model.", "network.", "net.", "encoder.")

# mmpretrain and mmseg 1.x -> the authors' names, then the authors' -> timm's (facts: timm's convnext.py).
_CONVNEXT_NAMES = [
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv([12])\.", r".pwconv\1."),
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^norm\.", "head.norm."),
]

# timm's names -> the authors', and the authors' -> mmpretrain's and mmseg 1.x's.
_CONVNEXT_AUTHORS = [
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
]
_CONVNEXT_OPENMMLAB = [(r"\.dwconv\.", ".depthwise_conv."), (r"\.pwconv([12])\.", r".pointwise_conv\1.")]

_FAMILIES = {
    "RepLKNet": r"^stages\.(\d+)\.blocks\.(\d+)\.large_kernel\.",
    "SLaK": r"^stages\.(\d+)\.(\d+)\.large_kernel\.",
    # The isotropic models have no stages.
    "ConvNeXt": r"^(?:stages\.(\d+)\.(?:blocks\.)?|blocks\.)(\d+)\.(?:conv_dw|dwconv|depthwise_conv)\.",
}


@dataclass
class Published:
    """A state dict in the names of this package."""

    network: dict[str, Tensor]
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def unwrap(checkpoint: Mapping, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of whatever container they are in.

    Args:
        checkpoint: what a file holds.
        key: the entry to take (``model_ema``); by default the first of ``CONTAINERS``, or the checkpoint itself.

    Raises:
        KeyError: there is no entry ``key``.
    """
    if key is not None:
        checkpoint = checkpoint[key]
    else:
        while any(isinstance(checkpoint.get(name), Mapping) for name in CONTAINERS):
            checkpoint = next(checkpoint[name] for name in CONTAINERS if isinstance(checkpoint.get(name), Mapping))
    # torch.compile leaves its mark wherever a module was compiled.
    state = {
        re.sub(r"(^|\.)_orig_mod\.", r"\1", str(name)): value
        for name, value in checkpoint.items()
        if isinstance(value, Tensor)
    }
    while prefix := next((p for p in WRAPPERS if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def family(network: Mapping[str, Tensor]) -> str | None:
    """``RepLKNet``, ``SLaK``, ``ConvNeXt`` or None, by the names of a network's tensors."""
    for name, pattern in _FAMILIES.items():
        if any(re.match(pattern, key) for key in network):
            return name
    return None


def convert(state: Mapping[str, Tensor]) -> Published:
    """Bring a flat state dict of any published format into the names of this package."""
    network, parts = to_timm(state), {}
    while prefix := next((p for p in NETWORKS if family(network) is None and _has(network, p)), None):
        parts |= _by_first_name({key: value for key, value in network.items() if not key.startswith(prefix)})
        network = {key.removeprefix(prefix): value for key, value in network.items() if key.startswith(prefix)}
    # This package's extractor keeps the network in `body` and its norms beside it.
    own = _has(network, "body.")
    network = {key.removeprefix("body."): value for key, value in network.items()}
    kind = family(network)
    if "decode_head" not in parts and any(key.startswith("head.fc.") for key in parts.get("head", ())):  # mmpretrain
        network |= {key.replace("head.fc.", "head."): value for key, value in parts.pop("head").items()}
    # mmpretrain counts the final norm as that of the last level; downstream files have one on each level.
    last, first = {"RepLKNet": ("stages.3.norm.", "stages.0.norm."), "ConvNeXt": ("norm3.", "norm0.")}.get(
        kind, ("", "")
    )
    if last and not own and _has(network, last) and not _has(network, first) and not _has(network, "norm."):
        network = {_swap_prefix(key, last, "norm."): value for key, value in network.items()}
    if kind == "ConvNeXt" and not any(".conv_dw." in key for key in network):
        network = {_renamed(key, _CONVNEXT_NAMES): value for key, value in network.items()}
    return Published(network, parts)


def authors_names(network: Mapping[str, Tensor], openmmlab: bool = False) -> dict[str, Tensor]:
    """The network of :class:`Published` under its authors' names; ConvNeXt also under OpenMMLab's."""
    if family(network) != "ConvNeXt":
        return dict(network)
    rules = [*_CONVNEXT_AUTHORS, *(_CONVNEXT_OPENMMLAB if openmmlab else ())]
    return {_renamed(key, rules): value for key, value in network.items()}


def to_model_keys(checkpoint: Mapping, model: nn.Module) -> dict[str, Tensor]:
    """The ``checkpoint_filter_fn`` of timm: any published format -> the keys of the classifier ``model``.

    Per-level norms of downstream files have no place in a classifier and are left out.
    """
    network = convert(unwrap(checkpoint)).network
    return {key: value for key, value in network.items() if not re.match(r"norm[0-3]\.", key)}


def describe(network: Mapping[str, Tensor]) -> str:
    """What a network looks like, in words: ``SLaK with 3-3-9-3 blocks and 124-249-499-998 channels``."""
    kind = family(network)
    if kind is None:
        first = ", ".join(list(network)[:3])
        return f"{len(network)} tensors of an unknown architecture ({first}, ...)" if network else "no tensors at all"
    blocks, channels, kernels = defaultdict(set), defaultdict(int), defaultdict(int)
    for key, value in network.items():
        if (match := re.match(_FAMILIES[kind], key)) and value.ndim == 4:
            stage = int(match[1] or 0)
            blocks[stage].add(match[2])
            channels[stage] = max(channels[stage], value.shape[0])
            kernels[stage] = max(kernels[stage], *value.shape[2:])
    depths = "-".join(str(len(blocks[stage])) for stage in sorted(blocks))
    widths, sizes = ("-".join(str(of[stage]) for stage in sorted(blocks)) for of in (channels, kernels))
    merged = " in merged form" if any("reparam" in key for key in network) else ""
    return f"{kind}{merged} with {depths} blocks, {widths} channels and kernels {sizes}"


def _has(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def _by_first_name(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        parts.setdefault(key.split(".", 1)[0], {})[key] = value
    return parts


def _swap_prefix(key: str, old: str, new: str) -> str:
    return new + key.removeprefix(old) if key.startswith(old) else key


def _renamed(key: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
