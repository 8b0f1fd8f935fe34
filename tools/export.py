"""Write a merged network as ONNX and as a program of torch.export, run both and compare them with the original.

Examples:
python tools/export.py --checkpoint runs/demo_segmentation/run_0/checkpoints/last.ckpt --output exported/demo
python tools/export.py --model replknet_31b --weights in1k --output exported/replknet_31b
"""

import sys

from jsonargparse import auto_cli

from lk_downstream.cli import quieten
from lk_downstream.errors import InputError
from lk_downstream.export import FORMATS, classifier, export
from lk_downstream.tasks import load_task


def main(
    output: str,
    checkpoint: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
    formats: list[str] = list(FORMATS),  # noqa: B006
    deep: bool = True,
    multiple: int = 1,
) -> int:
    """Export a network; the exit code is 1 if something given is wrong.

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
    quieten()
    try:
        if (checkpoint is None) == (model is None):
            raise InputError("give either a checkpoint or a model")
        source = load_task(checkpoint) if checkpoint else classifier(model, weights, num_classes)
        for file in export(source, output, formats, deep, multiple):
            apart = ", ".join(f"{name} {value:.1e}" for name, value in file.differences.items())
            print(f"{file.path}: run and compared, largest difference in standard deviations: {apart}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(auto_cli(main, as_positional=False))
