"""Images with objects: boxes, masks, names and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lk_downstream.reports.masks import panel_shape
from lk_downstream.reports.plotting import DPI, MAX_SIDE, PANEL, plain_text, rendered, shown_name, thinned


class Objects(NamedTuple):
    """Objects of an image, as they are drawn."""

    boxes: np.ndarray  # (K, 4) x1, y1, x2, y2 in its pixels
    labels: np.ndarray  # (K,)
    scores: np.ndarray | None = None  # (K,)
    masks: np.ndarray | None = None  # bool (K, H, W)


def draw_detections(image: np.ndarray, objects: Objects, colours: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """An image uint8 (H, W, 3) with its objects, as uint8 (height, width, 3), at least 800 pixels wide."""
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    inches = 6.0  # for any image, so that the letters are equally large in all
    with plain_text():
        figure = Figure((inches, inches * height / width), dpi=max(width, 800) / inches)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.axis("off")
        draw_objects(axis, image, objects, colours, classes, MAX_SIDE)
        return rendered(figure)


def detection_grid(
    samples: list[tuple[str, np.ndarray, Objects, Objects]],
    palette: Sequence[tuple[int, int, int]],
    classes: Sequence[str],
    heading: str = "prediction",
) -> np.ndarray:
    """Draw pairs of truth and prediction.

    Args:
        samples: Name, image uint8 (H, W, 3), true and found objects.
        palette: A colour (red, green, blue) of 0 to 255 for each class.
        classes: Names of the classes.
        heading: What stands above predictions.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    colours = np.asarray(palette) / 255
    per_row = 2 if len(samples) > 1 else 1
    rows = -(-len(samples) // per_row)
    cell = 3.6
    with plain_text():
        size = (2 * per_row * cell, rows * (cell * panel_shape(sample[1] for sample in samples) + 0.3))
        figure = Figure(size, dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, 2 * per_row, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for index, (name, image, truth, found) in enumerate(samples):
            row, column = divmod(index, per_row)
            for offset, (text, objects) in enumerate(((shown_name(name), truth), (heading, found))):
                axis = axes[row, 2 * column + offset]
                draw_objects(axis, image, objects, colours, classes)
                axis.set_title(text, fontsize=8)
        return rendered(figure)


def draw_objects(
    axis: Any, image: np.ndarray, objects: Objects, colours: np.ndarray, classes: Sequence[str], side: int = PANEL
) -> None:
    """One image with its objects, the worst first, so that the best lie on top; no side has more pixels."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    labels = objects.labels.tolist()
    pixels = image.astype(np.float32)
    order = range(len(labels) - 1, -1, -1)
    for number in order if objects.masks is not None else ():
        mask = objects.masks[number]
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * 255 * colours[labels[number]]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # in pixels of the whole image
    axis.imshow(thinned(pixels.astype(np.uint8), side), extent=extent)
    small = len(labels) > 12
    for number in order:
        x1, y1, x2, y2 = objects.boxes[number].tolist()
        colour = colours[labels[number]]
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
        score = "" if objects.scores is None else f" {objects.scores[number].item():.2f}"
        # Dark letters on light colours, by the luminance of the colour.
        ink = "black" if colour @ (0.299, 0.587, 0.114) > 0.55 else "white"
        right = x1 > 0.75 * width  # where the name would be cut off at the image's edge
        axis.text(
            min(x2, width) if right else max(x1, 0),
            max(y1, 0.04 * height),
            shown_name(classes[labels[number]]) + score,
            fontsize=4.5 if small else 6,
            color=ink,
            horizontalalignment="right" if right else "left",
            verticalalignment="bottom" if y1 > 0.04 * height else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
            clip_on=True,
        )
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
