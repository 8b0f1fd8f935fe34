"""Merged networks as files that other programs run: ONNX and ``torch.export``.

What is exported takes images as they are (uint8, RGB), in batches and sizes of any number, gives what a prediction
gives, says of itself what it wants, and holds nothing but the operators of PyTorch and torchvision, or ONNX's. A file
appears under its name only when it has been run, and has given what the original network gives.
"""

from lk_downstream.export.examples import example
from lk_downstream.export.files import FORMATS, PACKAGES, Exported, export
from lk_downstream.export.models import classifier, network
from lk_downstream.export.networks import Inside, Network
from lk_downstream.export.precisions import PRECISIONS
from lk_downstream.export.scoring import score, validation_data

__all__ = ["FORMATS", "PACKAGES", "PRECISIONS", "Exported", "Inside", "Network"]
__all__ += ["classifier", "example", "export", "network", "score", "validation_data"]
