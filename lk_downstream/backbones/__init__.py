"""RepLKNet and SLaK as timm models, any hierarchical timm model as a multi-scale extractor, and their weights."""

from lk_downstream.backbones import (  # noqa: F401 (registers the models with timm)
    convnext_isotropic,
    mobilenet,
    modern_resnet,
    replknet,
    slak,
)
from lk_downstream.backbones.classifier import Classifier, create_classifier
from lk_downstream.backbones.extractor import Backbone
from lk_downstream.backbones.factory import create_backbone
from lk_downstream.backbones.reparam import reparameterize
from lk_downstream.backbones.weights import LoadReport, load_weights

__all__ = [
    "Backbone",
    "Classifier",
    "LoadReport",
    "create_backbone",
    "create_classifier",
    "load_weights",
    "reparameterize",
]
