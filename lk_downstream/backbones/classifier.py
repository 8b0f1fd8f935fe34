"""Building of a classifier by name, with its weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lk_downstream.backbones import factory, registry
from lk_downstream.backbones.weights import load_weights


class Classifier(nn.Module):
    """Images (N, 3, H, W) -> logits (N, num_classes). The timm model itself is ``body``.

    Attributes:
        name: timm's name of the model.
        num_classes: number of classes.
        mean: what the input is to be normalised by, for pixels in 0..1.
        std: likewise.
        missing: tensors of ``body`` that the weights lacked; of a classifier for other classes, its last layer.
    """

    def __init__(self, body: nn.Module, name: str, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.body = body
        self.name = name
        self.num_classes: int = body.num_classes
        self.mean = mean
        self.std = std
        self.missing: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised by ``mean`` and ``std`` -> logits (N, num_classes)."""
        return self.body(x)


def create_classifier(
    name: str,
    weights: str | None = None,
    num_classes: int | None = None,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    in_chans: int = 3,
    **overrides: Any,
) -> Classifier:
    """Build a classifier from a timm model, as its authors publish it: with final norm and linear layer.

    Args:
        name: name of the model: replknet_31b, slak_tiny, convnext_tiny, convnext_isotropic_small, ..., or any other
            model of timm.
        weights: what to start from: a path or an address of a file in any published format, or the name of published
            weights, such as in1k or in22k (for timm's own models also timm's tags, such as a1_in1k); none for random
            weights. Of a classifier for another number of classes, the last layer is left out, with a note.
        num_classes: number of classes; none: that of the published weights or of the model. On the command line it is
            that of the data.
        drop_path_rate: stochastic depth; 0 for none.
        grad_checkpointing: recompute activations in the backward pass, which saves memory and costs time.
        in_chans: input channels, see :func:`create_backbone`.
        **overrides: further arguments of the timm model, such as head_init_scale of ConvNeXt and SLaK. In a
            configuration file they stand under dict_kwargs, beside init_args.

    Raises:
        InputError: the model or its weights are unknown, or it does not take an argument.
    """
    factory.check_name(name)
    overrides = factory.with_channels(overrides, in_chans)
    source = factory.weights_source(name, weights)
    published = source if isinstance(source, registry.Weights) else None
    arguments = {**overrides, "drop_path_rate": drop_path_rate} if drop_path_rate else dict(overrides)
    if num_classes is None and published:
        num_classes = published.num_classes
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if isinstance(source, factory.TimmTag):
        arguments |= {"pretrained": True, "pretrained_cfg": source}
    body = factory.create_model(name, arguments)
    if grad_checkpointing:
        factory.set_grad_checkpointing(body, name)
    classifier = Classifier(body, name, *factory.statistics(published, body, overrides))
    if isinstance(source, factory.TimmTag):
        if body.pretrained_cfg["num_classes"] != body.num_classes:
            classifier.missing = (str(body.pretrained_cfg["classifier"]),)
    elif source:
        classifier.missing = tuple(load_weights(body, published.url if published else source).missing)
    return classifier
