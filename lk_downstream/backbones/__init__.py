"""RepLKNet and SLaK as timm models, and any hierarchical timm model as a multi-scale extractor."""

from lk_downstream.backbones import replknet, slak  # noqa: F401 (registers the models with timm)
from lk_downstream.backbones.extractor import Backbone, create_backbone
from lk_downstream.backbones.reparam import reparameterize

__all__ = ["Backbone", "create_backbone", "reparameterize"]
