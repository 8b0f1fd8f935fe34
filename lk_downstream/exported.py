"""Exported files in use: what they say of themselves, and their outputs, whatever the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (registers the operators of detectors)
from torch import Tensor

from lk_downstream import trust_programs
from lk_downstream.detectors.paste import paste_masks, to_original
from lk_downstream.errors import InputError
from lk_downstream.export.metadata import from_texts

Run = Callable[[Tensor], list[Tensor]]
KINDS = ("segmentation", "detection", "classification", "multilabel")


class ExportedModel:
    """An exported file that runs; any number of threads may use it.

    Args:
        path: the file, for messages.
        metadata: its entries.
        run: images uint8 -> outputs, in their order.

    Attributes:
        kind: ``segmentation``, ``detection``, ``classification`` or ``multilabel``.
        classes: names of the classes.
        channels: of the images that it takes.
        resizes: whether images of any size go in as they are.
        metadata: all that the file says of itself, see :func:`lk_downstream.export.metadata.of`.

    Raises:
        InputError: The file says nothing, or nothing that makes sense.
    """

    def __init__(self, path: str | os.PathLike, metadata: dict[str, Any], run: Run):
        self.path, self.metadata, self._run = Path(path), metadata, run
        if metadata.get("kind") not in KINDS:
            raise InputError(f"{path} does not say what it predicts: export it by lk-downstream export")
        self.kind = metadata["kind"]
        for name, made in (("classes", str), ("outputs", str), ("channels", int)):
            values = metadata.get(name)
            values = [values] if name == "channels" else list(values) if isinstance(values, (list, dict)) else [None]
            if any(type(value) is not made for value in values):
                raise InputError(f"{path} has {name} that make no sense: export it again")
        self.classes, self.channels = tuple(metadata["classes"]), metadata["channels"]
        self.names = tuple(metadata["outputs"])
        self.resizes = metadata.get("resize") is True

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name, on the CPU, for images uint8 (N, C, H, W)."""
        return dict(zip(self.names, self._run(images)))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """What the task's ``predict_step`` gives for a batch of its data module, or of images as they are."""
        if self.kind == "detection":
            return self._detections(batch)
        if self.kind == "segmentation":
            found = self.run(batch["image"])
            return found["classes"] if "classes" in found else found["logits"].argmax(1).to(torch.uint8)
        return tuple(self.probabilities(batch["image"]).topk(min(5, len(self.classes))))

    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities (N, classes), or of a segmentation exported with its logits (N, classes, H, W)."""
        found = self.run(images)
        if "probabilities" in found:
            return found["probabilities"]
        if "logits" not in found:
            raise InputError(f"{self.path} gives classes and no probabilities: export it with --decide false")
        return found["logits"].sigmoid() if self.kind == "multilabel" else found["logits"].softmax(1)

    def _detections(self, batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        if "count" not in self.names:
            raise InputError(f"{self.path} gives boxes of all points, not detections: export it with --decide true")
        images = batch["image"]
        if self.resizes:
            results = self._rows(self.run(images))
            sizes = [tuple(images.shape[-2:])] * len(images)
            return [
                {**found, "masks": paste_masks(found["masks"], found["boxes"], size)} if "masks" in found else found
                for found, size in zip(results, sizes)
            ]
        results = []
        for image, (height, width), target in zip(images, batch["size"].tolist(), batch["target"]):
            (found,) = self._rows(self.run(image[None, :, :height, :width]))  # it pads by itself
            old_height, old_width = target["original_size"].tolist()
            results.append(to_original(found, (old_height, old_width), (width / old_width, height / old_height)))
        return results

    @staticmethod
    def _rows(found: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        names = [name for name in found if name != "count"]
        return [
            {name: found[name][image, :count] for name in names} for image, count in enumerate(found["count"].tolist())
        ]


def open_exported(path: str | os.PathLike, device: str | torch.device | None = None) -> ExportedModel:
    """An exported file, ``.onnx`` or ``.pt2``, ready to run.

    Files are data: a program that names more than operators on tensors is refused.

    Args:
        path: the file.
        device: where it computes; None: on the CPU.

    Raises:
        InputError: There is no such file, it is damaged or refused, or a package is missing.
    """
    path, device = Path(path), torch.device(device or "cpu")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    openers = {".onnx": _open_onnx, ".pt2": _open_program}
    if path.suffix.lower() not in openers:
        raise InputError(f"{path} is no exported file: they end in {' or '.join(openers)}")
    return openers[path.suffix.lower()](path, device)


def _open_onnx(path: Path, device: torch.device) -> ExportedModel:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"{path} is run by onnxruntime, which is not installed: pip install 'lk_downstream[export]', or pip "
            "install onnxruntime"
        ) from error
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # whatever a damaged file makes the reader raise
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} is no ONNX file or is damaged ({what}): export it again") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(f"{path} takes {len(inputs)} inputs where images alone are given: export it again")
    metadata = from_texts(session.get_modelmeta().custom_metadata_map)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {inputs[0].name: images.cpu().numpy()})]

    return ExportedModel(path, metadata, run)


def _open_program(path: Path, device: torch.device) -> ExportedModel:
    metadata = trust_programs.check_program(path)
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as error:  # whatever a damaged file makes the reader raise
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read ({what}): export it again, by this version of PyTorch") from error

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(images.to(device).contiguous())
        return [output.cpu() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return ExportedModel(path, metadata, run)
