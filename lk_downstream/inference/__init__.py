"""From images to class scores at their own size, and to objects."""

from lk_downstream.inference.boxes import MultiScaleBoxes
from lk_downstream.inference.multi_scale import MultiScale
from lk_downstream.inference.rules import Inference, Slide, Whole

__all__ = ["Inference", "MultiScale", "MultiScaleBoxes", "Slide", "Whole"]
