"""What RepLKNet and SLaK do alike at their ends: a new classifier, and the refusal of a dilated form."""

from functools import partial

from timm.layers import SelectAdaptivePool2d
from torch import nn

from lk_downstream.errors import InputError


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
