"""Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original."""

from __future__ import annotations

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
) -> int:
    """Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original.

    Examples: --checkpoint runs/demo_segmentation/run_0/checkpoints/last.ckpt --output exported/demo
    or --model replknet_31b --weights in1k --output exported/replknet_31b

    Args:
        output: Path of the files without suffix.
        checkpoint: A checkpoint of this package's command line.
        model: In place of a checkpoint, a classifier by its name in timm's registry, such as replknet_31b.
        weights: Of this classifier: a file, an address, or the name of published weights, such as in1k.
        num_classes: Of these weights, where they are not the usual ones.
        formats: onnx, pt2 or both.
        deep: Fold all norms that can be folded exactly.
        multiple: Heights and widths are multiples of this; 32 for backbones that take no others.
    """
    if (checkpoint is None) == (model is None):
        raise InputError("give either a checkpoint or a model")
    from lk_downstream import export as exporting
    from lk_downstream.tasks import load_task

    source = load_task(checkpoint) if checkpoint else exporting.classifier(model, weights, num_classes)
    for file in exporting.export(source, output, formats, deep, multiple):
        apart = ", ".join(f"{name} {value:.1e}" for name, value in file.differences.items())
        print(f"{file.path}: run and compared, largest difference in standard deviations: {apart}")
    return 0


def main(args: list[str]) -> int:
    """Export by the words of a command line."""
    return call("export", export, args, as_positional=False)
