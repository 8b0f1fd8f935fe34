"""LightningModules, one for each task."""

from lk_downstream.tasks.base import Task
from lk_downstream.tasks.classification import Classification
from lk_downstream.tasks.detection import Detection
from lk_downstream.tasks.loading import load_task
from lk_downstream.tasks.multilabel import MultiLabelClassification
from lk_downstream.tasks.segmentation import Segmentation

__all__ = ["Classification", "Detection", "MultiLabelClassification", "Segmentation", "Task", "load_task"]
