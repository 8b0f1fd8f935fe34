"""What happens beside the training: averaging of weights, checkpoints, reports and pictures."""

from lk_downstream.callbacks.averaging import AveragedWeights
from lk_downstream.callbacks.checkpoints import Checkpoints
from lk_downstream.callbacks.detection_pictures import DetectionFiles, DetectionPictures
from lk_downstream.callbacks.pictures import SegmentationPictures
from lk_downstream.callbacks.prediction import SegmentationFiles
from lk_downstream.callbacks.progress import RunProgress
from lk_downstream.callbacks.report import RunReport

__all__ = [
    "AveragedWeights",
    "Checkpoints",
    "DetectionFiles",
    "DetectionPictures",
    "RunProgress",
    "RunReport",
    "SegmentationFiles",
    "SegmentationPictures",
]
