"""What happens beside the training: reports and pictures."""

from lk_downstream.callbacks.pictures import SegmentationPictures
from lk_downstream.callbacks.report import RunReport

__all__ = ["RunReport", "SegmentationPictures"]
