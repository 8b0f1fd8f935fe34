"""Evaluation of a classifier on other images of ImageNet's classes, as in Table 8 of the ConvNeXt paper."""

from __future__ import annotations

import lightning as L

from lk_downstream.callbacks.robustness import RobustnessReport
from lk_downstream.data import ClassificationData
from lk_downstream.data.robustness import RobustnessData, find_trees
from lk_downstream.errors import InputError
from lk_downstream.tasks.classification import Classification


class Trainer(L.Trainer):
    """Lightning's Trainer, which can also evaluate robustness."""

    def robustness(
        self,
        model: Classification,
        datamodule: ClassificationData,
        imagenet_a: str | None = None,
        imagenet_r: str | None = None,
        imagenet_sketch: str | None = None,
        imagenet_c: str | None = None,
        imagenet_c_bar: str | None = None,
        cue_conflict: str | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> RobustnessReport:
        """Evaluate on the test sets whose folders are given; prints a table and writes ``robustness.json``.

        Images are resized as those of ``datamodule`` for validation. Those of ImageNet-C and -C-bar have 224 pixels
        already: by default they are resized to 256 and cropped to 224, as in the evaluation of AugMix; with
        ``--data.crop 1`` they stay as they are, as in that of their authors.

        Args:
            model: The task.
            datamodule: Data on which it was trained, for the order of the classes and the evaluation's resize.
            imagenet_a: Folder of ImageNet-A, ``<wnid>/*.jpg``.
            imagenet_r: Folder of ImageNet-R, ``<wnid>/*.jpg``.
            imagenet_sketch: Folder of ImageNet-Sketch, ``<wnid>/*.JPEG``.
            imagenet_c: Folder of ImageNet-C, ``<corruption>/<severity>/<wnid>/*.JPEG``.
            imagenet_c_bar: Folder of ImageNet-C-bar, likewise.
            cue_conflict: Folder of the cue-conflict images, ``<shape>/<shape>1-<texture>2.png``, for the shape bias.
            ckpt_path: Checkpoint of a run to evaluate.
            weights_only: Whether PyTorch reads it without running code.

        Raises:
            InputError: The task is no classification, no folder is given, or one is not as expected.
        """
        if not isinstance(model, Classification) or not isinstance(datamodule, ClassificationData):
            raise InputError("robustness is evaluated of classification: give its config as --config")
        roots = {
            "imagenet_a": imagenet_a,
            "imagenet_r": imagenet_r,
            "imagenet_sketch": imagenet_sketch,
            "imagenet_c": imagenet_c,
            "imagenet_c_bar": imagenet_c_bar,
            "cue_conflict": cue_conflict,
        }
        trees = find_trees(roots, datamodule.train_data.class_folders)
        report = RobustnessReport(trees)
        self.callbacks.append(report)
        data = RobustnessData(datamodule, trees.parts)
        self.validate(model, datamodule=data, ckpt_path=ckpt_path, weights_only=weights_only, verbose=False)
        return report
