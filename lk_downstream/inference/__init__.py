"""From pictures to class scores at their own size."""

from lk_downstream.inference.rules import Slide, Whole

__all__ = ["Slide", "Whole"]
