"""Operators: the large-kernel depthwise convolution with its backends, and the fusion of convolutions and norms."""

from lk_downstream.ops.dispatch import notice, report
from lk_downstream.ops.large_kernel import BACKENDS, depthwise_conv2d
from lk_downstream.ops.module import LargeKernelConv2d, accelerate, supports

__all__ = ["BACKENDS", "LargeKernelConv2d", "accelerate", "depthwise_conv2d", "notice", "report", "supports"]
