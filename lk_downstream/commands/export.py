"""Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original."""

from __future__ import annotations

import shlex
import sys
from typing import Literal

from lk_downstream.commands.parsing import call
from lk_downstream.errors import InputError


def export(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
    formats: list[Literal["onnx", "pt2"]] = ["onnx", "pt2"],  # noqa: B006
    deep: bool = True,
    multiple: int = 1,
    resize: bool = True,
    decide: bool = True,
    weights_license: str | None = None,
    pad_kernels: bool = False,
) -> int:
    """Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original.

    Examples: --checkpoint runs/demo_segmentation/run_0/checkpoints/last.ckpt --output exported/demo
    or --model replknet_31b --weights in1k --output exported/replknet_31b

    Args:
        output: Path of the files without suffix.
        checkpoint: A checkpoint of this package's command line, or a run's folder.
        model: In place of a checkpoint, a classifier by its name in timm's registry, such as replknet_31b.
        weights: Of this classifier: a file, an address, or the name of published weights, such as in1k.
        num_classes: Of these weights, where they are not the usual ones.
        formats: onnx, pt2 or both.
        deep: Fold all norms that can be folded exactly.
        multiple: Without resize, heights and widths are multiples of this; 32 for backbones that take no others.
        resize: Make the test-time resize part of the file, which then takes images of any size.
        decide: Make softmax, argmax, or box decoding and non-maximum suppression part of the file.
        weights_license: Licence of the weights, which the file then says; of published weights it is known.
        pad_kernels: Give large kernels in ONNX files a form that onnxruntime computes faster, and OpenVINO slower.
    """
    if (checkpoint is None) == (model is None):
        raise InputError("give either a checkpoint or a model")
    import torch

    from lk_downstream import export as exporting
    from lk_downstream import loading

    preparation = None
    if checkpoint:
        source, preparation = loading.opened(checkpoint, torch.device("cpu"))
        if not isinstance(source, torch.nn.Module):
            raise InputError(f"{checkpoint} has been exported: give the checkpoint that it comes from")
    else:
        source = exporting.classifier(model, weights, num_classes)
    about = {"command": shlex.join(["lk-downstream", "export", *sys.argv[1:]])}
    if weights_license:
        about["license"] = weights_license
    done = exporting.export(source, output, formats, deep, multiple, resize, decide, preparation, about, pad_kernels)
    for note in done[0].notes if done else ():
        print(f"note: {note}")
    for file in done:
        apart = ", ".join(f"{name} {value:.1e}" for name, value in file.differences.items())
        print(f"{file.path}: run and compared, differences from the original: {apart}")
    for file in done if done and done[0].metadata["channels"] == 3 else ():
        print(f"\n# {file.path} in any program:\n{exporting.example(file.path, tuple(file.metadata['outputs']))}")
    return 0


def main(args: list[str]) -> int:
    """Export by the words of a command line."""
    return call("export", export, args, as_positional=False)
