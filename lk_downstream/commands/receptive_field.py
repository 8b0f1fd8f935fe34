"""Effective receptive fields of several models as one image, with the area ratios of the RepLKNet paper."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from lk_downstream.commands.parsing import call
from lk_downstream.commands.printing import console
from lk_downstream.errors import InputError


def receptive_field(
    models: list[str],
    images: str | None = None,
    count: int = 50,
    size: int = 1024,
    stages: bool = False,
    output: str = "receptive_field",
    device: str | None = None,
    seed: int = 0,
) -> int:
    """Draw effective receptive fields side by side, and print the area ratios at 20, 30, 50 and 99 percent.

    As RepLKNet's authors do: the gradient of the centre of the last map, over images that are resized to a square.
    Example: --models "[replknet_31b:in1k, slak_tiny, runs/mine/run_0]" --images data/imagenet/val --output field

    Args:
        models: Names of timm's registry, with weights after a colon, folders of runs, or checkpoints.
        images: An image, or a folder of images; none: generated noise, of which trained networks see no shapes.
        count: Largest number of images.
        size: Side of the square that images are resized to, in pixels; the authors' is 1024.
        stages: The field of the map of every stage, not of the last alone.
        output: Path of the files without suffix: .png, .json and .csv.
        device: To compute on; none: the GPU if there is one.
        seed: Of random weights.
    """
    if not models or count < 1 or size < 8:
        raise InputError("receptive-field: give models; count is at least 1, size at least 8")
    import torch

    from lk_downstream.analysis import receptive_field as fields
    from lk_downstream.analysis.models import find_model
    from lk_downstream.data.image_folder import ImageFolder
    from lk_downstream.reports.files import write_image, write_json, write_table
    from lk_downstream.reports.receptive_field import Drawn, draw_fields, fields_table

    folder = ImageFolder(images) if images else None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for name in models:
        torch.manual_seed(seed)
        model = find_model(name)
        squares = (
            (fields.squared(folder[index]["image"], size) for index in range(min(count, len(folder))))
            if folder
            else fields.noise(count, size, len(model.mean))
        )
        found += fields.receptive_field(name, model, squares, stages, device)
    drawn = [Drawn(field.model, field.stride, fields.scaled(field.gradient), field.ratios) for field in found]
    path = Path(output)
    rows = [{name: value for name, value in asdict(field).items() if name != "gradient"} for field in found]
    write_image(path.with_name(f"{path.name}.png"), draw_fields(drawn))
    write_json(path.with_name(f"{path.name}.json"), {"images": images or "noise", "size": size, "fields": rows})
    heading = ["model", "stride", "images", *(f"area at {share:g}" for share in fields.THRESHOLDS)]
    table = [[field.model, field.stride, field.images, *field.ratios.values()] for field in found]
    write_table(path.with_name(f"{path.name}.csv"), heading, table)
    screen = console()
    screen.print(fields_table(drawn))
    screen.print(f"\nwritten: {path}.png, .json and .csv", markup=False)
    return 0


def main(args: list[str]) -> int:
    """Measure by the words of a command line."""
    return call("receptive-field", receptive_field, args, as_positional=False)
