"""Metrics that mean what their names say, exact under any number of processes."""

from lk_downstream.metrics.coco import CocoEvaluator, encode_masks, score_file
from lk_downstream.metrics.segmentation import SegmentationMetric

__all__ = ["CocoEvaluator", "SegmentationMetric", "encode_masks", "score_file"]
