"""Data sets, transforms, samplers and data modules. Nothing here knows of models."""

from lk_downstream.data.class_table import ClassTable
from lk_downstream.data.classification import ClassFolder, ImageNet, ImageNet22K
from lk_downstream.data.classification_module import ClassificationData
from lk_downstream.data.classification_transforms import EvaluationImage, TrainingImage
from lk_downstream.data.coco import Coco
from lk_downstream.data.coco_masks import CocoInstances, CocoPanoptic
from lk_downstream.data.detection import DetectionDataset
from lk_downstream.data.detection_module import DetectionData
from lk_downstream.data.detection_transforms import LargeScaleJitter, MultiScale, MultiScaleCrop, ResizeToFit
from lk_downstream.data.image_folder import ImageFolder
from lk_downstream.data.mix import Mix
from lk_downstream.data.module import DataModule
from lk_downstream.data.parquet import ClassParquet, SegmentationParquet
from lk_downstream.data.sampling import ClassBalanced, RepeatFactor, Sampling, WeightColumn
from lk_downstream.data.segmentation import ADE20K, Cityscapes, SegmentationDataset
from lk_downstream.data.segmentation_folder import SegmentationFolder
from lk_downstream.data.segmentation_module import SegmentationData
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.voc import Voc
from lk_downstream.data.yolo import Yolo

__all__ = [
    "ADE20K",
    "Cityscapes",
    "ClassBalanced",
    "ClassFolder",
    "ClassParquet",
    "ClassTable",
    "ClassificationData",
    "Coco",
    "CocoInstances",
    "CocoPanoptic",
    "DataModule",
    "DetectionData",
    "DetectionDataset",
    "EvaluationImage",
    "ImageFolder",
    "ImageNet",
    "ImageNet22K",
    "LargeScaleJitter",
    "Mix",
    "MultiScale",
    "MultiScaleCrop",
    "RepeatFactor",
    "ResizeToFit",
    "Sampling",
    "SegmentationData",
    "SegmentationDataset",
    "SegmentationFolder",
    "SegmentationParquet",
    "Synthetic",
    "TrainingImage",
    "Voc",
    "WeightColumn",
    "Yolo",
]
