"""How far the outputs of a file are from those of the network that it was written from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lk_downstream.export.networks import Network

TRIED = ((1, 224, 224), (3, 193, 250))  # batch, height and width that files are run with; odd ones, too
TOLERANCE = 1e-3  # of an output's standard deviation
MOST_OTHER = 5e-3  # share of pixels or detections that may be others, where two were nearly equal
APART = 0.02  # pixels by which a box may be moved


@torch.no_grad()
def compare(
    original: Network,
    run: Callable[[Tensor], Sequence[Tensor]],
    file: str,
    tried: Sequence[tuple[int, int, int]] = TRIED,
    multiple: int = 1,
    bounded: bool = True,
) -> dict[str, float]:
    """Run a file on noise of several sizes and compare it with the original.

    Args:
        original: the network.
        run: images uint8 -> outputs of the file.
        file: its name, for messages.
        tried: batch, height and width of the noise.
        multiple: of heights and widths.
        bounded: whether differences must be small; else only shapes are compared, and numbers must be some.

    Returns:
        The largest difference of each output: of numbers, in standard deviations of the original's; of class indices,
        the share of those that differ; of detections, for ``boxes`` the largest distance in pixels to the same
        detection of the original, and for ``count`` the share of detections that the other has not.

    Raises:
        RuntimeError: A shape is another, or a difference is too large.
    """
    worst: dict[str, float] = {}
    for images in noise(original, tried, multiple):
        batch, _, height, width = images.shape
        expected, got = original(images), run(images)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        expected, got = dict(zip(original.names, expected)), dict(zip(original.names, got))
        for name in expected:
            if got[name].shape != expected[name].shape:
                raise RuntimeError(
                    f"{file} gives {name} of {tuple(got[name].shape)} and not {tuple(expected[name].shape)}"
                )
        for name, (difference, limit) in differences(expected, got).items():
            if not difference <= (limit if bounded else math.inf):
                raise RuntimeError(
                    f"{file} is off by {difference:.1e} in {name} at {batch} x {height} x {width} pixels, more than "
                    f"{limit:.0e}, and is not kept"
                )
            worst[name] = max(worst.get(name, 0.0), difference)
    return worst


def noise(original: Network, tried: Sequence[tuple[int, int, int]] = TRIED, multiple: int = 1) -> Iterator[Tensor]:
    """Images uint8 (N, C, H, W) of several sizes, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    for batch, *size in tried:
        height, width = (-(-max(side, original.least) // multiple) * multiple for side in size)
        shape = (batch, original.channels, height, width)
        yield torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def differences(expected: dict[str, Tensor], got: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """See :func:`compare`: of each output the difference and what it may be."""
    if "count" in expected:
        return _of_detections(expected, got)
    found = {}
    for name, values in expected.items():
        if values.is_floating_point():
            spread = values.std() if values.numel() > 1 else values.abs().max()
            found[name] = (((got[name] - values).abs().max() / spread).item(), TOLERANCE)
        else:
            found[name] = ((got[name] != values).float().mean().item(), MOST_OTHER)
    return found


def in_turn(expected: dict[str, Tensor], got: dict[str, Tensor]) -> Iterator[tuple[dict, dict]]:
    """Each image's detections of the one and of the other, in both orders."""
    for image in range(len(expected["count"])):
        one, other = (
            {name: values[image, : outputs["count"][image]] for name, values in outputs.items() if name != "count"}
            for outputs in (expected, got)
        )
        yield one, other
        yield other, one


def _of_detections(expected: dict, got: dict) -> dict[str, tuple[float, float]]:
    distance, score, mask, missing = [0.0], [0.0], [0.0], 0
    for first, second in in_turn(expected, got):
        if not len(first["boxes"]):
            continue
        if not len(second["boxes"]):
            missing += len(first["boxes"])
            continue
        apart = (first["boxes"][:, None] - second["boxes"]).abs().amax(-1)
        apart = apart + 1e6 * (first["labels"][:, None] != second["labels"])
        apart = apart + (first["scores"][:, None] - second["scores"]).abs()
        least, index = apart.min(1)
        same = least <= APART
        missing += int((~same).sum())
        if not same.any():
            continue
        index = index[same]
        distance.append((first["boxes"][same] - second["boxes"][index]).abs().max().item())
        score.append((first["scores"][same] - second["scores"][index]).abs().max().item())
        if "masks" in first:
            mask.append((first["masks"][same] - second["masks"][index]).abs().max().item())
    total = int(expected["count"].sum() + got["count"].sum())
    found = {
        "boxes": (max(distance), APART),
        "scores": (max(score), TOLERANCE),
        "count": (missing / max(total, 1), max(MOST_OTHER, 1.5 / max(total, 1))),
    }
    return found | ({"masks": (max(mask), 10 * TOLERANCE)} if "masks" in expected else {})
