"""The large kernels of several models as one image, and how much of them lies outside of smaller ones."""

from __future__ import annotations

from pathlib import Path

from lk_downstream.commands.parsing import call
from lk_downstream.commands.printing import console
from lk_downstream.errors import InputError


def kernels(
    models: list[str],
    inner: list[int] = [3, 7, 13],  # noqa: B006
    least: int = 5,
    output: str = "kernels",
    seed: int = 0,
) -> int:
    """Draw the mean absolute weights of the large kernels of each stage, and where they are zero.

    Branches are merged, with their norms. Example: --models "[replknet_31b:in1k, runs/mine/run_0]" --inner "[7, 13]"

    Args:
        models: Names of timm's registry, with weights after a colon, folders of runs, or checkpoints.
        inner: Odd sides k: how much of each kernel lies outside of the k x k around its centre.
        least: Side of the smallest depthwise kernels that are looked at.
        output: Path of the files without suffix: .png, .json and .csv with a row for each kernel.
        seed: Of random weights.
    """
    if not models or least < 1:
        raise InputError("kernels: give models; least is at least 1")
    import torch

    from lk_downstream.analysis.kernels import by_stage, kernels_of
    from lk_downstream.analysis.models import find_model
    from lk_downstream.reports.files import write_image, write_json, write_table
    from lk_downstream.reports.kernels import DrawnKernel, draw_kernels, kernels_table

    found = []
    for name in models:
        torch.manual_seed(seed)
        found += kernels_of(name, find_model(name), inner, least)
    drawn = [DrawnKernel(k.model, k.stage, k.magnitude, k.nonzero, k.density, k.outside) for k in by_stage(found)]
    path = Path(output)
    rows = [
        {
            "model": kernel.model,
            "stage": kernel.stage + 1,
            "name": kernel.name,
            "kernel": list(kernel.magnitude.shape),
            "density": kernel.density,
            "outside": kernel.outside,
        }
        for kernel in found
    ]
    write_image(path.with_name(f"{path.name}.png"), draw_kernels(drawn))
    write_json(path.with_name(f"{path.name}.json"), rows)
    heading = ["model", "stage", "name", "height", "width", "density", *(f"outside {side}x{side}" for side in inner)]
    table = [
        [kernel.model, kernel.stage + 1, kernel.name, *kernel.magnitude.shape, kernel.density, *kernel.outside.values()]
        for kernel in found
    ]
    write_table(path.with_name(f"{path.name}.csv"), heading, table)
    screen = console()
    screen.print(kernels_table(drawn))
    screen.print(f"\nwritten: {path}.png, .json and .csv", markup=False)
    return 0


def main(args: list[str]) -> int:
    """Look at kernels by the words of a command line."""
    return call("kernels", kernels, args, as_positional=False)
