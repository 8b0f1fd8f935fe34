"""Merged networks as files that other programs run: ONNX and ``torch.export``.

What is exported takes images as they are (uint8, RGB), in batches and sizes of any number, and holds nothing but
PyTorch's own operators, or ONNX's. A file appears under its name only when it has been run, and has given what the
original network gives.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lk_downstream.backbones import load_weights, registry, reparameterize
from lk_downstream.detectors import Detector, FCOSHead, OneStageDetector
from lk_downstream.detectors.boxes import from_distances
from lk_downstream.errors import InputError, near_names
from lk_downstream.heads.layers import AdaptiveMean
from lk_downstream.tasks import Classification, Segmentation, Task

FORMATS = ("onnx", "pt2")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = (2, 3, 256, 320)  # traced, not computed; no side of any map of it is 1, which a trace would take for fixed
LARGEST = 8192  # pixels, the longest side
TRIED = ((1, 224, 224), (3, 193, 250))  # batch, height and width that files are run with; odd ones, too
TOLERANCE = 1e-3  # of an output's standard deviation
SINGLE_FILE = 1_800_000_000  # bytes of weights that fit into one ONNX file, which may have 2 GiB


# ---------------------------------------------------------------- networks


class Network(nn.Module):
    """Images uint8 (N, 3, H, W), RGB -> outputs, as :attr:`names` has them.

    Attributes:
        names: of the outputs.
        least: smallest height and width.
    """

    names: tuple[str, ...] = ("logits",)
    least = 64

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1))

    def normalize(self, images: Tensor) -> Tensor:
        """Images uint8 -> input of the network, of the type of its parameters."""
        return ((images.float() - self.mean) / self.std).to(next(self.parameters()).dtype)


class Classifier(Network):
    """Logits (N, classes) by a task, or a model of timm's kind. Resizing and cropping are left to the caller."""

    def __init__(self, model: nn.Module):
        if isinstance(model, Classification):
            mean, std, model = model.backbone.mean, model.backbone.std, model.backbone.body
        else:
            mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        super().__init__(mean, std)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.model(self.normalize(images))


class Segmenter(Network):
    """Logits (N, classes, H, W) at the size of the images, without auxiliary head, in one pass over the whole."""

    def __init__(self, task: Segmentation):
        super().__init__(task.backbone.mean, task.backbone.std)
        self.backbone, self.head = task.backbone, task.head

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        # Contiguous, as torch.export else asks of SLaK's channels-last maps in which order they lie at every width.
        maps = [maps.contiguous() for maps in self.backbone(self.normalize(images))]
        logits = self.head(maps)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=self.head.align_corners)


class Points(Network):
    """FCOS or RetinaNet up to the suppression of double detections.

    ``boxes`` (N, P, 4) as x1, y1, x2, y2 in pixels, ``scores`` (N, P, classes) in 0..1 and, of FCOS, ``centerness``
    (N, P) in 0..1, with which scores are multiplied for ranking. P counts the points (or anchors) of all levels, finest
    first. How many detections of an image remain differs from image to image, which no batch of fixed form holds:
    the threshold, and non-maximum suppression within each class, are left to the caller (here ``Selection``).
    """

    least = 160  # of smaller images the coarsest level has one cell

    def __init__(self, detector: OneStageDetector):
        super().__init__(detector.backbone.mean, detector.backbone.std)
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.bbox_head
        self.names = ("boxes", "scores", *(("centerness",) if isinstance(self.head, FCOSHead) else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        outputs = self.head(self.neck(self.backbone(self.normalize(images))))
        scores = torch.cat(outputs.logits, 1).sigmoid()
        if isinstance(self.head, FCOSHead):
            boxes = from_distances(torch.cat(outputs.points), torch.cat(outputs.distances, 1))
            return boxes, scores, torch.cat(outputs.centerness, 1).sigmoid()
        return self.head.coder.decode(torch.cat(outputs.anchors), torch.cat(outputs.deltas, 1)), scores


def network(model: nn.Module) -> Network:
    """What is exported of a task, a detector or a classifier of timm's kind.

    Raises:
        InputError: It is of another kind, such as a two-stage detector.
    """
    if isinstance(model, Segmentation):
        return Segmenter(model)
    if isinstance(model, Classification):
        return Classifier(model)
    detector = getattr(model, "detector", model)  # of the detection task, or given as it is
    if isinstance(detector, OneStageDetector):
        return Points(detector)
    if isinstance(detector, Detector):
        raise InputError(
            f"{type(detector).__name__} works on as many regions as it finds, which cannot be exported for batches and "
            "sizes of any number; FCOS and RetinaNet can"
        )
    if isinstance(model, Task) or not hasattr(model, "pretrained_cfg"):
        raise InputError(
            f"{type(model).__name__} cannot be exported: give a classifier of timm's kind, a task or a detector"
        )
    return Classifier(model)


def _exact_pools(module: nn.Module) -> None:
    """Replace PyTorch's adaptive pooling, in heads of mmsegmentation, by one that is exported for any size."""
    for name, child in module.named_children():
        if type(child) is nn.AdaptiveAvgPool2d:
            size = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,) * 2
            if size != (1, 1) and None not in size:
                setattr(module, name, AdaptiveMean(size))
        _exact_pools(child)


# ---------------------------------------------------------------- files


@dataclass
class Exported:
    """A file, and how far its outputs are from the original's: the largest difference over the standard deviation."""

    path: Path
    differences: dict[str, float]


def export(
    model: nn.Module,
    output: str | os.PathLike,
    formats: Sequence[str] = FORMATS,
    deep: bool = True,
    multiple: int = 1,
) -> list[Exported]:
    """Merge a network, write it in some formats, run what was written and compare it with the original.

    Args:
        model: see :func:`network`.
        output: path of the files without suffix; they get ``.onnx`` and ``.pt2``. Beside an ONNX file of more than
            1.8 GB its weights lie in ``.onnx.data``.
        formats: ``onnx`` (to be run by onnxruntime, say) and ``pt2`` (``torch.export.load(path).module()``).
        deep: fold all norms that can be folded, see :func:`lk_downstream.reparameterize`.
        multiple: heights and widths will be multiples of this; for backbones that take no others.

    Raises:
        InputError: the model cannot be exported, a package is missing, or a format is unknown.
        RuntimeError: a file does not give what the original gives; it is not kept.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"format {name!r} is none of {', '.join(FORMATS)}{near_names(name, FORMATS)}; choose one")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise InputError(f"ONNX needs {', '.join(missing)}: pip install -e '.[export]', or leave out the format onnx")
    original = network(model).eval()
    merged = reparameterize(original, deep=deep)
    _exact_pools(merged)
    shapes = _shapes(original, multiple)
    program = _program(merged, shapes)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        done = []
        for name in formats:
            path = Path(folder) / f"{output.name}.{name}"
            run = WRITERS[name](program, original.names, shapes, path)
            done.append(Exported(output.parent / path.name, _compare(original, run, path.name, multiple)))
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.suffix != ".data"):  # weights first
            path.replace(output.parent / path.name)
    return done


def _shapes(network: Network, multiple: int) -> tuple[dict[int, Dim]]:
    """Which dimensions of the input may be of any size."""
    sides = []
    for name in ("height", "width"):
        if multiple == 1:
            sides.append(Dim(name, min=network.least, max=LARGEST))
        else:
            steps = Dim(f"{name}_steps", min=-(-network.least // multiple), max=LARGEST // multiple)
            sides.append(multiple * steps)
    return ({0: Dim("batch", min=1, max=4096), 2: sides[0], 3: sides[1]},)


def _program(network: Network, shapes: tuple[dict[int, Dim]]) -> ExportedProgram:
    try:
        with torch.no_grad():
            return torch.export.export(network, (torch.zeros(EXAMPLE, dtype=torch.uint8),), dynamic_shapes=shapes)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # also what torch.export raises
        reason = next((line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")), str(error))
        raise InputError(
            f"the network cannot be exported for images of any size: {reason.splitlines()[0]}; a backbone may need "
            "sizes that are multiples of 32 (--multiple 32)"
        ) from error


Runner = Callable[[Tensor], Sequence[Tensor]]


def _write_pt2(program: ExportedProgram, names: Sequence[str], shapes: tuple, path: Path) -> Runner:
    torch.export.save(program, path)
    module = torch.export.load(path).module()
    return lambda images: _tuple(module(images))


def _write_onnx(program: ExportedProgram, names: Sequence[str], shapes: tuple, path: Path) -> Runner:
    import onnxruntime

    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            program,
            (),
            path,
            output_names=list(names),
            dynamic_shapes=shapes,
            external_data=weights > SINGLE_FILE,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(array) for array in session.run(None, {name: images.numpy()})]


WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}


@torch.no_grad()
def _compare(original: Network, run: Runner, file: str, multiple: int) -> dict[str, float]:
    """Largest difference of each output, in standard deviations of the original's, over images of several sizes."""
    generator = torch.Generator().manual_seed(0)
    worst = dict.fromkeys(original.names, 0.0)
    for batch, *size in TRIED:
        height, width = (-(-max(side, original.least) // multiple) * multiple for side in size)
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
        for name, expected, got in zip(original.names, _tuple(original(images)), run(images)):
            if got.shape != expected.shape:
                raise RuntimeError(f"{file} gives {name} of {tuple(got.shape)} and not {tuple(expected.shape)}")
            difference = ((got - expected).abs().max() / expected.std()).item()
            if not difference <= TOLERANCE:
                raise RuntimeError(
                    f"{file} is off by {difference:.1e} of the standard deviation of {name} at {batch} x {height} x "
                    f"{width} pixels, more than {TOLERANCE:.0e}, and is not kept"
                )
            worst[name] = max(worst[name], difference)
    return worst


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


# ---------------------------------------------------------------- models by name


def classifier(name: str, weights: str | None = None, num_classes: int | None = None) -> nn.Module:
    """A classifier of timm's registry in eval mode.

    Args:
        name: such as replknet_31b or slak_tiny; with timm's own weights as ``model.tag``, such as resnet50.a1_in1k.
        weights: a file or address in any published format, or a name of published weights, such as in1k; None: random.
        num_classes: of the weights, where they are not those of the model's default.

    Raises:
        InputError: the model or its weights are unknown.
    """
    if not timm.is_model(name):
        raise InputError(f"there is no model named {name!r}{near_names(name, timm.list_models())}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = timm.create_model(name, pretrained="." in name and weights is None, **options)
    if weights:
        published = registry.find(name, weights)
        if published:
            model.pretrained_cfg.update(mean=published.mean, std=published.std)
        load_weights(model, published.url if published else weights)
    return model.eval()
