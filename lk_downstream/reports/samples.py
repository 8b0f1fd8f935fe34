"""Samples of a data set with what is known of them, in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lk_downstream.reports.masks import colour_table, overlay, panel_shape
from lk_downstream.reports.objects import draw_objects
from lk_downstream.reports.plotting import DPI, add_legend, plain_text, rendered, shown_name, thinned

COLUMNS = 4


def sample_sheet(
    samples: Sequence[dict[str, Any]], classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Draw samples with their masks, boxes or labels.

    Args:
        samples: Each with ``image`` uint8 (H, W, 3), ``name``, and one of ``mask`` uint8 (H, W), ``objects``
            (:class:`Objects`), ``labels`` (indices of classes) or ``shares`` (of all classes).
        classes: Names of the classes.
        palette: A colour (red, green, blue) of 0 to 255 for each class.

    Returns:
        uint8 (height, width, 3).
    """
    from matplotlib.figure import Figure

    colours = colour_table(list(palette))
    columns = min(COLUMNS, len(samples))
    rows, cell = -(-len(samples) // columns), 3.0
    with plain_text():
        height = rows * (cell * panel_shape(sample["image"] for sample in samples) + 0.4)
        figure = Figure((columns * cell, height + 0.9 * ("mask" in samples[0])), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, sample in zip(axes.flat, samples):
            _draw(axis, sample, classes, colours)
        if "mask" in samples[0]:
            found = sorted({int(value) for sample in samples for value in np.unique(sample["mask"])})
            found = [index for index in found if index < len(classes)][:24]
            options = {"loc": "outside lower center", "ncols": min(len(found), 2 * columns) or 1, "fontsize": 8}
            add_legend(figure, colours[found] / 255, [classes[index] for index in found], **options)
        return rendered(figure)


def _draw(axis: Any, sample: dict[str, Any], classes: Sequence[str], colours: np.ndarray) -> None:
    image, title = sample["image"], shown_name(sample["name"])
    if "objects" in sample:
        draw_objects(axis, image, sample["objects"], colours / 255, classes)
    elif "mask" in sample:
        axis.imshow(overlay(thinned(image), thinned(sample["mask"]), colours, 0.5))
    else:
        axis.imshow(thinned(image))
        if "shares" in sample:  # of smoothed labels the small ones are of no interest
            shares = {classes[number]: share for number, share in enumerate(sample["shares"]) if share > 0.05}
            names = [f"{shown_name(name)} {share:.2f}" for name, share in shares.items()]
        else:
            names = [shown_name(classes[number]) for number in sample["labels"]]
        title = f"{', '.join(names) or 'no label'}\n{title}"
    axis.set_title(title, fontsize=8)
