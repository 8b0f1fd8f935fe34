"""Networks as files: written, run, compared with the original, and only then kept under their names."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lk_downstream.backbones import reparameterize
from lk_downstream.errors import InputError, near_names
from lk_downstream.export import kernels, metadata, precisions, selection
from lk_downstream.export.agreement import agreement
from lk_downstream.export.comparison import TRIED, compare, noise
from lk_downstream.export.models import network
from lk_downstream.export.networks import Inside, Network
from lk_downstream.heads.layers import AdaptiveMean

FORMATS = ("onnx", "pt2")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Height and width that are traced, not computed; no side of any map is 1, which a trace would take for fixed.
EXAMPLE = (256, 320)
USUAL = (512, 512)  # height and width of the image by which the usual size of maps is told
LARGEST = 8192  # pixels, the longest side that the network sees
LARGEST_IMAGE = 65_536  # the longest side of an image that is resized inside
SINGLE_FILE = 1_800_000_000  # bytes of weights that fit into one ONNX file, which may have 2 GiB

Runner = Callable[[Tensor], Sequence[Tensor]]


@dataclass
class Exported:
    """A file, what it says of itself, and how far its outputs are from the original's, see :func:`compare`.

    Of a file in another precision than the original's there is :func:`agreement` in place of differences.
    """

    path: Path
    differences: dict[str, float]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    agreement: float | None = None


def export(
    model: nn.Module,
    output: str | os.PathLike,
    formats: Sequence[str] = FORMATS,
    deep: bool = True,
    multiple: int = 1,
    resize: bool = True,
    decide: bool = True,
    preparation: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    pad_kernels: bool = False,
    other_precisions: Sequence[str] = (),
    calibrate: Any = None,
) -> list[Exported]:
    """Merge a network, write it in some formats, run what was written and compare it with the original.

    Args:
        model: see :func:`network`.
        output: path of the files without suffix; they get ``.onnx`` and ``.pt2``. Beside an ONNX file of more than
            1.8 GB its weights lie in ``.onnx.data``.
        formats: ``onnx`` (to be run by onnxruntime, say) and ``pt2`` (``torch.export.load(path).module()``).
        deep: fold all norms that can be folded, see :func:`lk_downstream.reparameterize`.
        multiple: without ``resize``, heights and widths will be multiples of this; for backbones that take no others.
        resize: whether the test-time resize is part of the file; else images have to come in the network's size.
        decide: whether softmax, argmax, or box decoding and non-maximum suppression are part of the file.
        preparation: how the test-time resize is done, as checkpoints keep it; None: the model's own, or the papers'.
        pad_kernels: give large kernels in ONNX files the form that onnxruntime computes faster, and others slower.
        about: what else the file is to say of itself, such as the licence of the weights, see :mod:`.metadata`.
        other_precisions: of further ONNX files, see :data:`PRECISIONS`, which get ``_float16.onnx`` and so on.
        calibrate: images by which int8 is calibrated and the agreement is found, as ``predict`` takes them; None: of
            float16, noise.

    Raises:
        InputError: the model cannot be exported, a package is missing, or a format is unknown.
        RuntimeError: a file does not give what the original gives; it is not kept.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"format {name!r} is none of {', '.join(FORMATS)}{near_names(name, FORMATS)}; choose one")
    precisions.check(other_precisions, formats, calibrate)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise InputError(f"ONNX needs {', '.join(missing)}: pip install -e '.[export]', or leave out the format onnx")
    original = network(model, Inside(resize, decide), preparation).eval()
    merged = reparameterize(original, deep=deep).requires_grad_(False)
    exact_pools(merged)
    if original.fixed:
        kernels.trim(kernels.seen_maps(merged, *EXAMPLE))
    shapes = _shapes(original, multiple)
    programs = Programs(merged, shapes, pad_kernels)
    texts = metadata.of(model, original, about)
    images = None
    if calibrate is not None and other_precisions:
        known = (preparation or getattr(model, "preparation", None) or {}).get("value_range")
        images = precisions.calibration(calibrate, original, texts["classes"], known, multiple)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        done = []
        for name in formats:
            path = Path(folder) / f"{output.name}.{name}"
            run = WRITERS[name](programs, path, texts)
            differences = compare(original, run, path.name, TRIED, 1 if resize else multiple)
            done.append(Exported(output.parent / path.name, differences, texts, original.notes))
        for name in other_precisions:
            source, path = (Path(folder) / f"{output.name}{part}.onnx" for part in ("", f"_{name}"))
            said = {**texts, "precision": name}
            precisions.write(name, source, path, images, said, _weights(merged) > SINGLE_FILE)
            run = _onnx_runner(path)
            # For shapes and numbers that are none: noise is not what the ranges of int8 were made for.
            compare(original, run, path.name, TRIED, 1 if resize else multiple, bounded=False)
            shown = images() if images else noise(original, TRIED, 1 if resize else multiple)
            multilabel = original.kind == "multilabel"
            agreed = agreement(original, run, original.names, shown, path.name, multilabel)
            done.append(Exported(output.parent / path.name, {}, said, original.notes, agreed))
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.suffix != ".data"):  # weights first
            path.replace(output.parent / path.name)
    return done


def exact_pools(module: nn.Module) -> None:
    """Replace PyTorch's adaptive pooling, in heads of mmsegmentation, by one that is exported for any size."""
    for name, child in module.named_children():
        if type(child) is nn.AdaptiveAvgPool2d:
            size = child.output_size if isinstance(child.output_size, tuple) else (child.output_size,) * 2
            if size != (1, 1) and None not in size:
                setattr(module, name, AdaptiveMean(size))
        exact_pools(child)


def _shapes(network: Network, multiple: int) -> tuple[dict[int, Dim]]:
    """Which dimensions of the input may be of any size."""
    sides = []
    for name in ("height", "width"):
        if network.inside.resize:
            sides.append(Dim(name, min=1, max=LARGEST_IMAGE))
        elif multiple == 1:
            sides.append(Dim(name, min=network.least, max=LARGEST))
        else:
            steps = Dim(f"{name}_steps", min=-(-network.least // multiple), max=LARGEST // multiple)
            sides.append(multiple * steps)
    return ({0: Dim("batch", min=1, max=4096), 2: sides[0], 3: sides[1]},)


class Programs:
    """A network traced for the formats: once for both, unless it suppresses boxes, for which each has an operator.

    Args:
        network: it is merged.
        shapes: which dimensions of its input may be of any size.
        pad_kernels: see :func:`export`.
    """

    def __init__(self, network: Network, shapes: tuple[dict[int, Dim]], pad_kernels: bool = False):
        self.network, self.shapes, self.pad_kernels = network, shapes, pad_kernels
        self._traced: dict[Any, ExportedProgram] = {}

    def of(self, suppress: selection.Suppress | None) -> ExportedProgram:
        """The program with this form of non-maximum suppression."""
        key = suppress if hasattr(self.network, "suppress") else None
        if key not in self._traced:
            self.network.suppress = suppress
            self._traced[key] = _program(self.network, self.shapes)
        return self._traced[key]


def _program(network: Network, shapes: tuple[dict[int, Dim]]) -> ExportedProgram:
    example = torch.zeros(2, network.channels, *EXAMPLE, dtype=torch.uint8)
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # also what torch.export raises
        reason = next((line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")), str(error))
        raise InputError(
            f"the network cannot be exported for images of any size: {reason.splitlines()[0]}; a backbone may need "
            "sizes that are multiples of 32 (--multiple 32 --resize false)"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    program._guards_code.clear()  # code, which a file that is data does not hold
    return program


def _write_pt2(programs: Programs, path: Path, texts: dict[str, Any]) -> Runner:
    program = programs.of(selection.by_torchvision)
    torch.export.save(program, path, extra_files={metadata.FILE: metadata.to_json(texts)})
    module = torch.export.load(path).module()
    return lambda images: as_tuple(module(images))


def _write_onnx(programs: Programs, path: Path, texts: dict[str, Any]) -> Runner:
    import onnx
    from onnxscript import optimizer

    program = programs.of(selection.OPERATOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        written = torch.onnx.export(
            program,
            (),
            input_names=["images"],
            output_names=list(programs.network.names),
            dynamic_shapes=programs.shapes,
            custom_translation_table={selection.OPERATOR: selection.by_onnx},
            verbose=False,
            optimize=False,  # whose rewriting takes longer than all else; runtimes do it when they open a file
        )
    optimizer.fold_constants(written.model)
    optimizer.remove_unused_nodes(written.model)
    written.model.metadata_props.update(metadata.to_texts(texts))
    written.model.doc_string = texts["description"]
    written.save(path, external_data=_weights(programs.network) > SINGLE_FILE)
    if programs.pad_kernels:
        model = onnx.load(path, load_external_data=False)
        maps = kernels.seen_maps(programs.network, *USUAL, kernels.FEWEST_TAPS)
        kernels.pad_before(model, kernels.worth_padding(model.graph, maps))
        onnx.save(model, path)
    onnx.checker.check_model(path)
    return _onnx_runner(path)


def _weights(network: Network) -> int:
    """Bytes."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(array) for array in session.run(None, {name: images.numpy()})]


WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2}


def as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of a network, one or several, as several."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
