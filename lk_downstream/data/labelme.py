"""Masks drawn from the annotations of LabelMe (Wada's ``labelme``), one JSON file for each image."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lk_downstream import trust
from lk_downstream.data.labels import IGNORE_INDEX
from lk_downstream.errors import DamagedFile, InputError, near_names, some

BACKGROUNDS = ("_background_", "background")  # names of the class of pixels within no shape, the first is LabelMe's own
IGNORED = "__ignore__"  # LabelMe's own label of pixels that are not to be learnt
FARTHEST = 1e6  # pixels


def background(classes: Mapping[str, int]) -> int:
    """The class index of pixels within no shape: of the class ``_background_`` or ``background``, or else 255."""
    return next((classes[name] for name in BACKGROUNDS if name in classes), IGNORE_INDEX)


def read_labelme(path: str | os.PathLike, classes: Mapping[str, int]) -> np.ndarray:
    """Class indices of an image's polygons, rectangles and circles, uint8, (H, W), drawn as LabelMe itself does.

    Shapes are drawn in the order of the file, so that a later one lies on top. Pixels of the label ``__ignore__`` are
    255, pixels within no shape see :func:`background`.

    Args:
        path: The file.
        classes: Index of each class name.

    Raises:
        DamagedFile: The file is no JSON.
        InputError: It cannot be read or is not LabelMe's, a label is no class, or a shape has no area (linestrip).
    """
    try:
        content = trust.read_json(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DamagedFile(f"{path} is no JSON ({error}): save it again, or remove it with its image") from error
    keys = ("shapes", "imageHeight", "imageWidth")
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{path} is not LabelMe's: it has no list of shapes")
    height, width = (content.get(key) for key in keys[1:])
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise InputError(f"{path} lacks the size of its image (imageHeight, imageWidth): save it in LabelMe again")
    trust.check_pixels(path, width, height)
    mask = Image.new("L", (width, height), background(classes))
    draw = ImageDraw.Draw(mask)
    for number, shape in enumerate(content["shapes"], 1):
        if not isinstance(shape, dict):
            raise InputError(f"{path}: shape {number} is no shape")
        _draw(draw, f"{path}: shape {number}", shape, _index(path, shape.get("label"), classes))
    return np.array(mask)


def _index(path: str | os.PathLike, label: Any, classes: Mapping[str, int]) -> int:
    if isinstance(label, str) and label in classes:
        return classes[label]
    if label == IGNORED:
        return IGNORE_INDEX
    hint = near_names(str(label), classes) or f" (they are {some(classes, 8)})"
    raise InputError(f"{path} has the label {str(label)!r:.60}, which is none of the {len(classes)} classes{hint}")


def _draw(draw: ImageDraw.ImageDraw, name: str, shape: dict[str, Any], value: int) -> None:
    """Draw one shape, as ``labelme.utils.shape_to_mask`` does."""
    kind = shape.get("shape_type") or "polygon"
    fewest = {"polygon": 3, "rectangle": 2, "circle": 2}
    if not isinstance(kind, str) or kind not in fewest:
        raise InputError(f"{name} is a {kind!s:.60}, which has no area to fill: draw it as a polygon, or remove it")
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        points = []
    if len(points) < fewest[kind] or (kind != "polygon" and len(points) != 2):
        raise InputError(f"{name} is a {kind} of {len(points)} points, which it cannot be: draw it again, or remove it")
    if not all(abs(value) < FARTHEST for point in points for value in point):
        raise InputError(f"{name} has a point that is no pixel")
    if kind == "polygon":
        draw.polygon(points, fill=value, outline=value)
    elif kind == "rectangle":
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*points))
        draw.rectangle((x1, y1, x2, y2), fill=value, outline=value)
    else:  # its centre and a point of its border
        (x, y), (x2, y2) = points
        radius = math.hypot(x2 - x, y2 - y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
