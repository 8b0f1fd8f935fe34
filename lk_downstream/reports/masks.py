"""Images under the colours of their masks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np

from lk_downstream.reports.plotting import DPI, add_legend, plain_text, rendered, shown_name, thinned


def segmentation_grid(
    samples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    palette: list[tuple[int, int, int]],
    classes: tuple[str, ...],
) -> np.ndarray:
    """Draw rows of image, truth and prediction with a legend of the classes that occur.

    Args:
        samples: Name, image uint8 (H, W, 3), truth and prediction uint8 (H, W), with 255 for unlabelled pixels.
        palette: A colour (red, green, blue) of 0 to 255 for each class.
        classes: Names of the classes.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    colours = colour_table(palette)
    per_row = 2 if len(samples) > 1 else 1
    rows = -(-len(samples) // per_row)
    cell = 2.2
    with plain_text():
        size = (3 * per_row * cell, rows * (cell * panel_shape(sample[1] for sample in samples) + 0.25) + 0.9)
        figure = Figure(size, dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, 3 * per_row, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for index, (name, image, truth, prediction) in enumerate(samples):
            row, column = divmod(index, per_row)
            background = thinned(image)
            panels = ((shown_name(name, 28), None), ("truth", truth), ("prediction", prediction))
            for offset, (title, mask) in enumerate(panels):
                axis = axes[row, 3 * column + offset]
                axis.imshow(background if mask is None else overlay(background, thinned(mask), colours))
                axis.set_title(title, fontsize=8)
        found = sorted({int(value) for sample in samples for mask in sample[2:] for value in np.unique(mask)})
        found = [index for index in found if index < len(classes)][:24]
        if found:
            options = {"loc": "outside lower center", "ncols": min(len(found), 4 * per_row), "fontsize": 8}
            add_legend(figure, colours[found] / 255, [classes[index] for index in found], **options)
        return rendered(figure)


def panel_shape(images: Iterable[np.ndarray]) -> float:
    """Height of the panels for some images (H, W, 3), of width 1: that of their median, but none is a mere strip."""
    return min(max(statistics.median(image.shape[0] / image.shape[1] for image in images), 0.25), 2.0)


def colour_table(palette: list[tuple[int, int, int]]) -> np.ndarray:
    """A colour for each of the 256 values of a mask, uint8 (256, 3); black where the palette has none."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = np.asarray(palette, np.uint8)[:256]
    return colours


def overlay(image: np.ndarray, mask: np.ndarray, colours: np.ndarray, opacity: float = 0.65) -> np.ndarray:
    """The image uint8 (H, W, 3) under the colours (256, 3) of its mask uint8 (H, W); dark where that is 255."""
    blended = image * (1 - opacity) + colours[mask] * opacity
    return np.where(mask[..., None] == 255, image // 3, blended).astype(np.uint8)
