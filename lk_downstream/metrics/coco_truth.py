"""The ground truth of an evaluation: annotations of COCO's format, made ready for pycocotools."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any, Literal

from lk_downstream.data.coco_file import annotation_ids, checked, is_crowd, load_content
from lk_downstream.data.coco_outlines import parse_outline
from lk_downstream.errors import InputError

Backend = Literal["vectorized", "pycocotools"]


def load_annotations(source: str | Path | dict[str, Any]) -> Any:
    """The ``COCO`` object of an annotation file, or of its content.

    ``area`` and ``iscrowd``, which files of other tools leave out, are filled in: the box's area (that of the mask for
    objects with one), and 0. Annotations with the id 0 are counted anew: pycocotools takes such an object for none.

    Raises:
        InputError: the file is missing, or no COCO annotations.
    """
    from pycocotools.coco import COCO

    if isinstance(source, dict):
        content, _ = checked("the annotations", source)
    else:
        content, _ = load_content(Path(source))
    coco = COCO()
    # a copy: the evaluation writes into the objects (polygons become run-length codes)
    ids, _ = annotation_ids(content["annotations"])
    ids = list(range(1, len(ids) + 1)) if 0 in ids else ids
    rows = [{**item, "id": number} for number, item in zip(ids, content["annotations"])]
    coco.dataset = content = {**content, "annotations": rows}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(is_crowd(annotation))
        outline = annotation.get("segmentation")
        if isinstance(outline, list) and outline and isinstance(outline[0], list) and len(outline[0]) <= 4:
            # pycocotools takes the first polygon of fewer than three points for a box and fails
            annotation["segmentation"] = [part for part in outline if len(part) > 4] or outline
        if annotation.get("area") is None:
            annotation["area"] = _area(coco, annotation)
    return coco


def _area(coco: Any, annotation: dict[str, Any]) -> float:
    """The area of an object's mask, or of its box if it has none that can be drawn."""
    from pycocotools import mask as rle

    image = coco.imgs[annotation["image_id"]]
    try:
        parse_outline(annotation.get("segmentation"), image["height"], image["width"])
    except (KeyError, ValueError):
        _, _, width, height = annotation.get("bbox", (0, 0, 0, 0))
        return width * height
    return float(rle.area(coco.annToRLE(annotation)))


def check_outlines(coco: Any, name: str | Path) -> None:
    """Refuse objects without a mask, and broken ones, which pycocotools would read beyond their end."""
    for annotation in coco.dataset["annotations"]:
        image = coco.imgs[annotation["image_id"]]
        if not {"height", "width"} <= image.keys():
            raise InputError(f"{name}: image {image['id']} has no height and width, which masks need")
        try:
            parse_outline(annotation.get("segmentation"), image["height"], image["width"])
        except ValueError as error:
            raise InputError(f"{name}: annotation {annotation['id']} {error}") from None
