"""What a user does with each task, in small: fit, validate, predict, resume; on any device of a Trainer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lk_downstream import create_backbone, create_classifier
from lk_downstream import data as d
from lk_downstream import detectors as dt
from lk_downstream.callbacks import AveragedWeights, DynamicSparsity
from lk_downstream.data.detection_transforms import MultiScaleCrop
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.inference import Inference, MultiScale, Slide, Whole
from lk_downstream.optim import Cosine
from lk_downstream.tasks import Classification, Detection, Segmentation, Task
from lk_downstream.tasks.robustness import Trainer

KINDS = ("segmentation", "classification", "detection")
BACKBONES = ("test_convnext", "test_replknet", "test_slak")
DETECTORS = ("CascadeMaskRCNN", "FCOS", "RetinaNet")  # beside Mask R-CNN; those without masks are parts of these
RULES: dict[str, Inference] = {  # each of them resizes the generated images, of 48 x 64 pixels
    "whole": Whole(scale=(48, 40)),
    "slide": Slide(crop=32, scale=(80, 60), batch=2),
    "multi_scale": MultiScale(Whole(scale=(64, 40)), ratios=(0.75, 1.0)),
    "multi_scale_1x": MultiScale(Slide(crop=32), ratios=(0.5, 1.25), form="1.x"),
}
STEPS = 2


def data(kind: str, root: Path, **options: Any) -> d.DataModule:
    """Generated data, written once to ``root``."""
    synthetic = Synthetic(train=12, val=6, size=(48, 64))
    common = {"batch_size": 4, "workers": 0, "synthetic": synthetic, **options}
    if kind == "segmentation":
        dataset = partial(d.Cityscapes, root=root / kind)
        return d.SegmentationData(dataset, crop_size=32, scale=(64, 48), augment_on="device", **common)
    if kind == "classification":
        dataset = partial(d.ImageNet, root=root / kind, complete=False)
        module = d.ClassificationData(dataset, size=32, **common)
        if not (root / kind).exists():  # whose classes are its folders
            module.prepare_data()
            module = d.ClassificationData(dataset, size=32, **common)
        return module
    dataset = partial(d.Coco, root=root / kind)
    crop = MultiScaleCrop(short=(48, 60), long=90, first=(40, 56), crop=(30, 50))
    return d.DetectionData(dataset, masks=True, scale=(80, 60), augmentation=[crop], **{**common, "batch_size": 2})


def detector(name: str = "MaskRCNN") -> Any:
    """A narrow detector of this class, with its own recipe otherwise."""
    settings: dict[str, Any] = {}
    if name in ("FCOS", "RetinaNet"):
        neck, head = (dt.models.FCOS_NECK, dt.models.FCOS_HEAD) if name == "FCOS" else (
            dt.models.RETINA_NECK, dt.models.RETINA_HEAD
        )  # fmt: skip
        settings = {"neck": replace(neck, channels=8), "head": replace(head, channels=8, convs=1)}
    else:
        cascade, masks = "Cascade" in name, "Mask" in name
        rpn = dt.models.CASCADE_RPN if cascade else dt.models.MASK_RPN
        roi = {
            (True, True): dt.models.CASCADE_MASK_ROI,
            (True, False): dt.models.CASCADE_ROI,
            (False, True): dt.models.MASK_ROI,
            (False, False): dt.models.FASTER_ROI,
        }[cascade, masks]
        settings = {
            "neck": replace(dt.models.FPN_NECK, channels=8),
            "rpn": replace(
                rpn,
                sampler=replace(rpn.sampler, number=32),
                train=replace(rpn.train, keep=40),
                test=replace(rpn.test, keep=20),
            ),
            "roi": replace(
                roi,
                sampler=replace(roi.sampler, number=16),
                box=replace(roi.box, fc_channels=16, conv_channels=8, convs=min(roi.box.convs, 1)),
                mask=replace(roi.mask, channels=8, convs=1),
                test=replace(roi.test, score_threshold=0.0, keep=10),
            ),
        }
    return partial(getattr(dt, name), **settings)


def task(kind: str, module: d.DataModule, backbone: str = "test_slak", **options: Any) -> Task:
    """A small task on this data.

    Args:
        kind: One of `KINDS`.
        module: Gives the classes.
        backbone: One of `BACKBONES`.
        options: Of the task; ``detector`` may be a name.
    """
    torch.manual_seed(0)
    common = {
        "classes": tuple(module.classes),
        "optimizer": partial(torch.optim.AdamW, lr=1e-4),
        "schedule": partial(Cosine, warmup_steps=1),
    }
    if kind == "classification":
        body = create_classifier(backbone, num_classes=len(module.classes), drop_path_rate=0.1)
        return Classification(body, **common, **options)
    body = create_backbone(backbone, drop_path_rate=0.1)
    if kind == "segmentation":
        heads = {"head": partial(UPerHead, channels=8), "auxiliary_head": partial(FCNHead, channels=8)}
        return Segmentation(body, **{"inference": RULES["whole"], **heads, **common, **options})
    name = options.pop("detector", "MaskRCNN")
    return Detection(body, detector(name), **common, **options)


def callbacks() -> list[L.Callback]:
    """Averaged weights, and sparse ones that change at every step."""
    return [DynamicSparsity(update_every=1, init="snip", growth="momentum"), AveragedWeights(decay=0.5)]


def trainer(folder: Path, steps: int = STEPS, more: list[L.Callback] | None = None, **options: Any) -> Trainer:
    """A Trainer of few steps, that validates after the last and keeps its last checkpoint in ``folder``."""
    kept = ModelCheckpoint(folder, filename="last", save_top_k=-1, every_n_train_steps=steps)
    return Trainer(
        **{
            "default_root_dir": str(folder),
            "max_steps": steps,
            "val_check_interval": steps,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 1,
            "limit_val_batches": 1,
            "limit_predict_batches": 1,
            "log_every_n_steps": 50,  # values that are logged have to be waited for
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": [kept, *(more or [])],
            "gradient_clip_val": 1.0,
            **options,
        }
    )


def images(root: Path, kind: str) -> str:
    """A folder of images to predict on."""
    suffixes = (".png", ".jpg", ".JPEG")
    return str(next(p for p in sorted((root / kind).rglob("*")) if p.suffix in suffixes and "gt" not in p.name).parent)


def built(kind: str, module: d.DataModule, options: dict[str, Any]) -> Task:
    """The task, by what it takes out of the ``options`` of a Trainer.

    Beside those of :func:`task` these are ``checkpointing``, and ``compile``, a backend of torch.compile.
    """
    own = {key: options.pop(key) for key in ("backbone", "detector", "channels_last") if key in options}
    model = task(kind, module, **own)
    if options.pop("checkpointing", False):
        model.backbone.body.set_grad_checkpointing(True)
    backend = options.pop("compile", None)
    if backend:
        model.backbone.compile(backend=backend)  # in its place: the names of the weights stay
    return model


def fit(
    kind: str, root: Path, folder: Path, more: list[L.Callback] | None = None, steps: int = STEPS, **options: Any
) -> tuple[Task, Trainer]:
    """Train, validate, and keep a checkpoint."""
    module = data(kind, root)
    model = built(kind, module, options)
    run = trainer(folder, steps, more, **options)
    run.fit(model, datamodule=module)
    assert run.global_step == steps
    assert bool(model.results) == bool(run.limit_val_batches)
    finite(model)
    return model, run


def resume(kind: str, root: Path, folder: Path, more: list[L.Callback] | None = None, **options: Any) -> None:
    """Go on from the checkpoint that :func:`fit` has left in ``folder``."""
    module = data(kind, root)
    model = built(kind, module, options)
    run = trainer(folder, STEPS + 1, more, **options)
    run.fit(model, datamodule=module, ckpt_path=str(folder / "last.ckpt"))
    assert run.global_step == STEPS + 1


def predict(kind: str, root: Path, folder: Path, model: Task, **options: Any) -> list[Any]:
    """Predictions on a file."""
    module = data(kind, root, predict=images(root, kind))
    found = trainer(folder, **options).predict(model, datamodule=module)
    assert found
    return found


def evaluate(root: Path, folder: Path, model: Segmentation, rule: str, **options: Any) -> dict[str, float]:
    """The metrics of a validation under one of `RULES`."""
    model.inference = RULES[rule]
    trainer(folder, **options).validate(model, datamodule=data("segmentation", root), verbose=False)
    return model.results["summary"]


def step(name: str, root: Path, folder: Path, **options: Any) -> None:
    """One training step of a detector."""
    module = data("detection", root)
    model = task("detection", module, "test_convnext", detector=name)
    run = trainer(folder, 1, num_sanity_val_steps=0, limit_val_batches=0, **options)
    run.fit(model, datamodule=module)
    finite(model)


def robustness(root: Path, folder: Path, model: Classification, **options: Any) -> None:
    """A robustness evaluation on the validation images, in the layout of ImageNet-A."""
    module = data("classification", root)
    report = trainer(folder, limit_val_batches=None, **options).robustness(
        model, module, imagenet_sketch=str(root / "classification" / "val")
    )
    assert report.results["ImageNet-Sketch"]["images"] == 6


def finite(model: Task) -> None:
    """All weights have to be numbers after a training."""
    bad = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    assert not bad, f"not finite: {bad[:3]}"
