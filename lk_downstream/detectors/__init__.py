"""Detectors on torchvision's operators, with mmdetection's parameter names and arithmetic (see NOTICE)."""

from lk_downstream.detectors.anchor_head import RetinaHead, RetinaSettings, RPNHead, RPNSettings
from lk_downstream.detectors.bbox_head import BBoxHead, BBoxHeadSettings
from lk_downstream.detectors.detector import Detector, OneStageDetector, TwoStageDetector
from lk_downstream.detectors.fcos_head import FCOSHead, FCOSSettings
from lk_downstream.detectors.fpn import FPN, FPNSettings
from lk_downstream.detectors.mask_head import MaskHead, MaskHeadSettings
from lk_downstream.detectors.matching import IoUAssigner, RandomSampler
from lk_downstream.detectors.models import FCOS, CascadeMaskRCNN, CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from lk_downstream.detectors.paste import paste_masks, to_original
from lk_downstream.detectors.roi_head import RoIHead, RoISettings
from lk_downstream.detectors.selection import Selection

__all__ = [
    "FCOS",
    "FPN",
    "BBoxHead",
    "BBoxHeadSettings",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "Detector",
    "FCOSHead",
    "FCOSSettings",
    "FPNSettings",
    "FasterRCNN",
    "IoUAssigner",
    "MaskHead",
    "MaskHeadSettings",
    "MaskRCNN",
    "OneStageDetector",
    "RPNHead",
    "RPNSettings",
    "RandomSampler",
    "RetinaHead",
    "RetinaNet",
    "RetinaSettings",
    "RoIHead",
    "RoISettings",
    "Selection",
    "TwoStageDetector",
    "paste_masks",
    "to_original",
]
