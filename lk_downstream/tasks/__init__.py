"""LightningModules, one for each task."""

from lk_downstream.tasks.base import Task
from lk_downstream.tasks.detection import Detection
from lk_downstream.tasks.loading import load_task
from lk_downstream.tasks.segmentation import Segmentation

__all__ = ["Detection", "Segmentation", "Task", "load_task"]
