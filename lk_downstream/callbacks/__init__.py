"""What happens beside the training: averaging of weights, sparsity, checkpoints, and what is handed to the reports."""

from lk_downstream.callbacks.averaging import AveragedWeights
from lk_downstream.callbacks.checkpoints import CheckpointFiles, Checkpoints
from lk_downstream.callbacks.classification_plots import ClassificationPlots
from lk_downstream.callbacks.confusion import ConfusionMatrix
from lk_downstream.callbacks.curves import Curves
from lk_downstream.callbacks.detection_grid import DetectionGrid
from lk_downstream.callbacks.freezing import FreezeBackbone
from lk_downstream.callbacks.learning_rate import FindLearningRate
from lk_downstream.callbacks.page import RunPage
from lk_downstream.callbacks.per_image import (
    ClassificationPerImage,
    DetectionPerImage,
    MultiLabelPerImage,
    SegmentationPerImage,
)
from lk_downstream.callbacks.prediction import ClassificationFiles, DetectionFiles, SegmentationFiles
from lk_downstream.callbacks.prediction_grid import SegmentationGrid
from lk_downstream.callbacks.progress import RunProgress
from lk_downstream.callbacks.report import RunReport
from lk_downstream.callbacks.sparsity import DynamicSparsity
from lk_downstream.callbacks.step_times import StepTimes
from lk_downstream.callbacks.stopping import Stopping

__all__ = [
    "AveragedWeights",
    "CheckpointFiles",
    "Checkpoints",
    "ClassificationFiles",
    "ClassificationPerImage",
    "ClassificationPlots",
    "ConfusionMatrix",
    "Curves",
    "DetectionFiles",
    "DetectionGrid",
    "DetectionPerImage",
    "DynamicSparsity",
    "FindLearningRate",
    "FreezeBackbone",
    "MultiLabelPerImage",
    "RunPage",
    "RunProgress",
    "RunReport",
    "SegmentationFiles",
    "SegmentationGrid",
    "SegmentationPerImage",
    "StepTimes",
    "Stopping",
]
