"""The published detectors by name: parts with their settings, all of which can be changed."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from lk_downstream.detectors.anchor_head import RetinaHead, RetinaSettings, RPNHead, RPNSettings
from lk_downstream.detectors.bbox_head import BBoxHeadSettings
from lk_downstream.detectors.detector import OneStageDetector, TwoStageDetector
from lk_downstream.detectors.fcos_head import FCOSHead, FCOSSettings
from lk_downstream.detectors.fpn import FPN, FPNSettings
from lk_downstream.detectors.roi_head import RoIHead, RoISettings
from lk_downstream.detectors.selection import Selection

FPN_NECK = FPNSettings()
FCOS_NECK = FPNSettings(finest_stride=8, extra="output", extra_relu=True)
RETINA_NECK = FPNSettings(finest_stride=8, extra="input")
MASK_RPN = RPNSettings()
CASCADE_RPN = RPNSettings(allowed_border=0, beta=1 / 9, train=Selection(2000, 0.7, 0.0, per_level=2000))
MASK_ROI = RoISettings()
FASTER_ROI = RoISettings(low_quality=False, masks=False)
CASCADE_MASK_ROI = RoISettings(
    ious=(0.5, 0.6, 0.7),
    stds=((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
    weights=(1.0, 0.5, 0.25),
    low_quality=False,
    box=BBoxHeadSettings(convs=4, fcs=1, loss="giou", loss_weight=10.0),
)
CASCADE_ROI = replace(CASCADE_MASK_ROI, masks=False)
FCOS_HEAD = FCOSSettings()
RETINA_HEAD = RetinaSettings()


class MaskRCNN(TwoStageDetector):
    """Mask R-CNN (He et al. 2017), as published with ConvNeXt.

    Args:
        backbone: gives ``channels``, ``strides`` and maps, finest first.
        num_classes: foreground classes.
        neck: of the feature pyramid.
        rpn: of the region proposals.
        roi: of the box and mask heads.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = FPN_NECK,
        rpn: RPNSettings = MASK_RPN,
        roi: RoISettings = MASK_ROI,
    ):
        pyramid = FPN(backbone.channels, backbone.strides, neck)
        rpn_head = RPNHead(pyramid.channels, pyramid.strides, rpn)
        roi_head = RoIHead(pyramid.channels, pyramid.strides, num_classes, roi)
        super().__init__(backbone, pyramid, rpn_head, roi_head)


class FasterRCNN(MaskRCNN):
    """Faster R-CNN with a feature pyramid (Ren et al. 2015, Lin et al. 2017): boxes only. Arguments as `MaskRCNN`."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = FPN_NECK,
        rpn: RPNSettings = MASK_RPN,
        roi: RoISettings = FASTER_ROI,
    ):
        super().__init__(backbone, num_classes, neck, rpn, roi)


class CascadeMaskRCNN(MaskRCNN):
    """Cascade Mask R-CNN (Cai and Vasconcelos 2018) as published with all three backbones. Arguments as `MaskRCNN`.

    The batch norms of its box heads were synchronised over the devices: use ``sync_batchnorm`` of the trainer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = FPN_NECK,
        rpn: RPNSettings = CASCADE_RPN,
        roi: RoISettings = CASCADE_MASK_ROI,
    ):
        super().__init__(backbone, num_classes, neck, rpn, roi)


class CascadeRCNN(MaskRCNN):
    """`CascadeMaskRCNN` for boxes only. Arguments as `MaskRCNN`."""

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = FPN_NECK,
        rpn: RPNSettings = CASCADE_RPN,
        roi: RoISettings = CASCADE_ROI,
    ):
        super().__init__(backbone, num_classes, neck, rpn, roi)


class FCOS(OneStageDetector):
    """FCOS (Tian et al. 2019), as published with RepLKNet.

    Args:
        backbone: gives ``channels``, ``strides`` and maps, finest first; none finer than stride 8 is used.
        num_classes: foreground classes.
        neck: of the feature pyramid.
        head: of the head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = FCOS_NECK,
        head: FCOSSettings = FCOS_HEAD,
    ):
        pyramid = FPN(backbone.channels, backbone.strides, neck)
        super().__init__(backbone, pyramid, FCOSHead(pyramid.channels, pyramid.strides, num_classes, head))


class RetinaNet(OneStageDetector):
    """RetinaNet (Lin et al. 2017) with mmdet's settings.

    Args:
        backbone: gives ``channels``, ``strides`` and maps, finest first; none finer than stride 8 is used.
        num_classes: foreground classes.
        neck: of the feature pyramid.
        head: of the head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        neck: FPNSettings = RETINA_NECK,
        head: RetinaSettings = RETINA_HEAD,
    ):
        pyramid = FPN(backbone.channels, backbone.strides, neck)
        super().__init__(backbone, pyramid, RetinaHead(pyramid.channels, pyramid.strides, num_classes, head))
