"""Large-kernel ConvNets for downstream tasks."""

__version__ = "0.1.0"
