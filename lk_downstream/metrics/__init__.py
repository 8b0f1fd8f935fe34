"""Metrics that mean what their names say, exact under any number of processes."""

from lk_downstream.metrics.boundary import BoundaryIoU
from lk_downstream.metrics.classification import ClassificationMetric, confused_pairs
from lk_downstream.metrics.coco import CocoEvaluator, encode_masks
from lk_downstream.metrics.coco_results import score_file
from lk_downstream.metrics.multilabel import MultiLabelMetric
from lk_downstream.metrics.segmentation import SegmentationMetric

__all__ = [
    "BoundaryIoU",
    "ClassificationMetric",
    "CocoEvaluator",
    "MultiLabelMetric",
    "SegmentationMetric",
    "confused_pairs",
    "encode_masks",
    "score_file",
]
