"""What the families do alike as models of timm: how they are built, their heads, what they refuse."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg
from timm.models._features import FeatureDictNet
from torch import nn

from lk_downstream.backbones.formats import to_model_keys
from lk_downstream.errors import InputError


def build(
    kind: type[nn.Module],
    variant: str,
    sizes: Mapping[str, Any],
    out_indices: int | Sequence[int],
    pretrained: bool,
    options: dict[str, Any],
) -> nn.Module:
    """The model that ``timm.create_model(variant, pretrained, **options)`` gives.

    Args:
        kind: class of the model.
        variant: its name.
        sizes: arguments of ``kind`` that make the variant; ``options`` come first.
        out_indices: maps that ``features_only=True`` gives.
        pretrained: load the weights of timm's configuration.
        options: the caller's.

    Raises:
        InputError: features by rebuilding the network, which timm can do for a chain of modules only.
    """
    wanted = options.get("feature_cls", "getter")
    if wanted in ("dict", "list") or (isinstance(wanted, type) and issubclass(wanted, FeatureDictNet)):
        raise InputError(
            f"feature_cls={wanted!r} rebuilds a network as a chain of its modules, and {kind.__name__} is none; "
            "leave it out, or take 'getter', 'hook' or 'fx'"
        )
    return build_model_with_cfg(
        kind,
        variant,
        pretrained,
        pretrained_filter_fn=to_model_keys,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **{**sizes, **options},
    )


def new_head(model: nn.Module, global_pool: str, num_classes: int, flatten: bool) -> tuple[nn.Module, nn.Module]:
    """Pooling and classifier for ``model``, on its device, in its type and mode.

    Sets ``num_classes`` and ``head_hidden_size``, the width of the pooled features, of the model.

    Args:
        model: has ``num_features`` and parameters.
        global_pool: timm's pooling name; "" for none, and a 1 x 1 convolution as the classifier, as in timm's ConvNeXt.
        num_classes: 0 for no classifier.
        flatten: pooled features are (N, C), not (N, C, 1, 1).
    """
    pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=flatten and bool(global_pool))
    like = next(model.parameters())
    model.num_classes = num_classes
    model.head_hidden_size = model.num_features * pool.feat_mult()
    head: nn.Module = nn.Identity()
    if num_classes > 0:
        linear = nn.Linear if global_pool else partial(nn.Conv2d, kernel_size=1)
        head = linear(model.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
    return pool.train(model.training), head.train(model.training)


def refuse_output_stride(family: str, asked: int, only: int) -> None:
    """Refuse what timm's ``output_stride`` asks for, unless it is what the family has."""
    if asked != only:
        raise InputError(
            f"{family} has no dilated form, so that output_stride={asked} cannot be had; "
            f"its last map has stride {only}: leave it out and take a decoder for that (UperNet, FPN, Unet), "
            "or a model that has one (convnext_tiny)"
        )
