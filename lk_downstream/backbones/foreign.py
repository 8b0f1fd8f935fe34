"""ConvNeXt's tensors by the names of torchvision and of transformers -> timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# torchvision's ``features``: the stem, then stages and downsampling layers in turn.
_TORCHVISION = [
    (r"^features\.0\.", "stem."),
    *((rf"^features\.{2 * stage + 1}\.", f"stages.{stage}.blocks.") for stage in range(4)),
    *((rf"^features\.{2 * stage}\.", f"stages.{stage}.downsample.") for stage in range(1, 4)),
    (r"\.layer_scale$", ".gamma"),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
]
_TRANSFORMERS = [
    (r"^(?:convnext(?:v2)?\.)?embeddings\.patch_embeddings\.", "stem.0."),
    (r"^(?:convnext(?:v2)?\.)?embeddings\.layernorm\.", "stem.1."),
    (r"^(?:convnext(?:v2)?\.)?encoder\.", ""),
    (r"^(?:convnext(?:v2)?\.)?layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
    (r"\.downsampling_layer\.", ".downsample."),
    (r"\.layers\.(\d+)\.", r".blocks.\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.", ".mlp.grn."),
]
# By the name of a tensor that each has; what stands before it belongs to whatever holds the network.
_FORMS = (
    (re.compile(r"(.*?)features\.1\.0\.block\.0\.weight"), _TORCHVISION),
    (re.compile(r"(.*?)(?:convnext(?:v2)?\.)?encoder\.stages\.0\.layers\.0\.dwconv\.weight"), _TRANSFORMERS),
)


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names where they have torchvision's or transformers', else as they are."""
    for mark, rules in _FORMS:
        owner = next((found[1] for name in state if (found := mark.fullmatch(name))), None)
        if owner is not None:
            return {_renamed(name, owner, rules): value for name, value in state.items()}
    return dict(state)


def _renamed(name: str, owner: str, rules: list[tuple[str, str]]) -> str:
    if not name.startswith(owner):
        return name
    inner = name.removeprefix(owner)
    for pattern, replacement in rules:
        inner = re.sub(pattern, replacement, inner)
    return owner + inner
