"""Exported files in the runtimes beside the models that they were written from: the time of an image, and differences.

Every side predicts an image as ``lk_downstream.load`` lets it: from the image at its own size to class map, detections
with pasted masks, or probabilities. The model has this package's operator and is not merged; the files are. Weights are
random, seeded and spread. Differences are the largest of each output, see ``lk_downstream.export.comparison``; of masks
none are given.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import models
from benchmarks.sides import OURS, Race, alternate, shares
from lk_downstream import export, exported
from lk_downstream.export.comparison import differences
from lk_downstream.exported import ExportedModel
from lk_downstream.inference import Whole
from lk_downstream.inference.model import Predictor, predictor
from lk_downstream.tasks import Task

ROUNDS = 3
TASKS = ("upernet", *models.DETECTORS, "classifier")
CPU = torch.device("cpu")


def add_options(parser: argparse.ArgumentParser) -> None:
    usual = ("upernet", "mask_rcnn", "classifier")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=usual)
    parser.add_argument("--segmentor", default="convnext_tiny", help="backbone of UPerNet")
    parser.add_argument("--crop", type=int, default=512, help="side of its images")
    parser.add_argument("--detector", default="resnet50", help="backbone of the detectors")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 512), help="height and width of their images")
    parser.add_argument("--classifier", default="replknet_31b")
    parser.add_argument("--side", type=int, default=224, help="of what it sees of an image")
    parser.add_argument("--threads", type=int, default=1)


def races(options: argparse.Namespace) -> Iterator[Race]:
    for name in options.tasks:
        yield race(name, options)


def race(name: str, options: argparse.Namespace) -> Race:
    """One task in all of its forms."""
    said, task, size = made(name, options)
    image = smooth(*size)
    with tempfile.TemporaryDirectory() as folder:
        files = {file.path.suffix: file.path for file in export.export(task, Path(folder) / "model")}
        threads = torch.get_num_threads()
        torch.set_num_threads(options.threads)
        models_of = {
            OURS: task,
            "onnx by onnxruntime": by_onnxruntime(files[".onnx"]),
            "pt2 by torch.export": exported.open_exported(files[".pt2"]),
        }
        if importlib.util.find_spec("openvino"):
            models_of["onnx by OpenVINO"] = by_openvino(files[".onnx"])
        settings = models_of["pt2 by torch.export"].metadata["preparation"]
        sides = {side: predictor(model, settings | {"inside": side != OURS}, CPU) for side, model in models_of.items()}
        found: dict[str, dict[str, Tensor]] = {}
        calls = {side: partial(_keep, found, side, run, image) for side, run in sides.items()}
        seconds = alternate(calls, options.rounds)
        torch.set_num_threads(threads)
    expected = found.pop(OURS)
    apart = {
        side: {part: value for part, (value, _) in differences(expected, other).items()}
        for side, other in found.items()
    }
    conditions = (
        f"an image of {size[1]} x {size[0]}, {options.threads} thread{'s' * (options.threads > 1)}, processor time"
    )
    return Race(said, conditions, "ms/image", shares(seconds, 1e-3), apart)


def _keep(found: dict[str, dict[str, Tensor]], name: str, side: Predictor, image: Any) -> None:
    found[name] = outputs(side, image)


def made(name: str, options: argparse.Namespace) -> tuple[str, Task, tuple[int, int]]:
    """What it is called, the task, and height and width of its image."""
    if name == "upernet":
        task = models.upernet(options.segmentor, Whole((4 * options.crop, options.crop)))
        return f"segmentation, UPerNet, {options.segmentor}", task, (options.crop, options.crop)
    if name == "classifier":
        said = f"classification, {options.classifier} at {options.side}"
        return said, models.classifier(options.classifier, options.side), (375, 500)
    task = models.detector(name, options.detector, options.size)
    return f"detection, {models.DETECTORS[name].__name__}, {options.detector}", task, tuple(options.size)


def smooth(height: int, width: int) -> Any:
    """An image of large and small structures, uint8 (H, W, 3)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 16 + 2, width // 16 + 2, generator=generator)
    image = F.interpolate(coarse, (height, width), mode="bicubic")[0] + 0.1 * torch.randn(
        3, height, width, generator=generator
    )
    return (image.clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).numpy()


def outputs(side: Predictor, image: Any) -> dict[str, Tensor]:
    """What is compared of a prediction, as a batch of one."""
    if side.task == "segmentation":
        return {"classes": torch.from_numpy(side.predict(image).mask)[None]}
    if side.task == "classification":
        return {"probabilities": torch.from_numpy(side.predict(image, probabilities=True).probabilities)[None]}
    found = side.predict(image)
    rows = {name: torch.from_numpy(getattr(found, name))[None] for name in ("boxes", "scores", "labels")}
    return {**rows, "count": torch.tensor([len(found)])}


def by_onnxruntime(path: Path) -> ExportedModel:
    """The file in onnxruntime, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _of(path, lambda images: session.run(None, {"images": images.numpy()}))


def by_openvino(path: Path) -> ExportedModel:
    """The file in OpenVINO, likewise, in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    return _of(path, lambda images: request.infer([images.numpy()]).values())


def _of(path: Path, run: Callable[[Tensor], Any]) -> ExportedModel:
    """The runtime with what the file says of itself."""
    metadata = exported.open_exported(path).metadata
    return ExportedModel(path, metadata, lambda images: [torch.tensor(values) for values in run(images)])
