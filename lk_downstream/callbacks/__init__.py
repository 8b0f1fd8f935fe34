"""What happens beside the training: reports and pictures."""

from lk_downstream.callbacks.checkpoints import Checkpoints
from lk_downstream.callbacks.detection_pictures import DetectionFiles, DetectionPictures
from lk_downstream.callbacks.pictures import SegmentationPictures
from lk_downstream.callbacks.prediction import SegmentationFiles
from lk_downstream.callbacks.progress import RunProgress
from lk_downstream.callbacks.report import RunReport

__all__ = [
    "Checkpoints",
    "DetectionFiles",
    "DetectionPictures",
    "RunProgress",
    "RunReport",
    "SegmentationFiles",
    "SegmentationPictures",
]
