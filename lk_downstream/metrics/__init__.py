"""Metrics that mean what their names say, exact under any number of processes."""

from lk_downstream.metrics.segmentation import SegmentationMetric

__all__ = ["SegmentationMetric"]
