"""Large-kernel ConvNets for downstream tasks."""

from lk_downstream.backbones import (
    Backbone,
    Classifier,
    create_backbone,
    create_classifier,
    load_weights,
    reparameterize,
)
from lk_downstream.errors import InputError

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Classifier",
    "InputError",
    "create_backbone",
    "create_classifier",
    "load_weights",
    "reparameterize",
]
