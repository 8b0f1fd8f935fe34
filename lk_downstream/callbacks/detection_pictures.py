"""Pictures of what a detector finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from lk_downstream.callbacks.figures import (
    DPI,
    MAX_SIDE,
    PANEL,
    plain_text,
    rendered,
    shown_name,
    spared,
    thinned,
    write_picture,
)
from lk_downstream.callbacks.pictures import Pictures, panel_shape
from lk_downstream.callbacks.report import write_json
from lk_downstream.machine import shown_path
from lk_downstream.metrics import encode_masks


class Objects(NamedTuple):
    """Objects of a picture, as they are drawn."""

    boxes: Tensor  # (K, 4) x1, y1, x2, y2 in its pixels
    labels: Tensor  # (K,)
    scores: Tensor | None = None  # (K,)
    masks: Tensor | None = None  # bool (K, H, W)


class DetectionPictures(Pictures):
    """Truth and prediction side by side, with boxes, masks, names and scores, see :class:`Pictures`.

    Args:
        number: How many pictures.
        score: Detections of a lower score are not drawn.
        most: Only so many of the best detections of a picture are drawn.
    """

    def __init__(self, number: int = 6, score: float = 0.3, most: int = 30):
        super().__init__(number)
        self.score, self.most = score, most

    def collect(self, batch: dict[str, Any], outputs: dict[str, Any]) -> Iterable[tuple[str, Tensor, Objects, Objects]]:
        """Name, picture at its original size, truth and prediction."""
        rows = zip(batch["name"], _originals(batch), batch["size"].tolist(), batch["target"], outputs["prediction"])
        for name, image, size, target, found in rows:
            height, width = image.shape[-2:]
            back = torch.tensor([width / size[1], height / size[0]] * 2)
            objects = ~target["iscrowd"].cpu()
            truth = Objects(target["boxes"].cpu()[objects] * back, target["labels"].cpu()[objects])
            yield name, image, truth, best(found, self.score, self.most)

    def draw(self, samples: list[Any], trainer: L.Trainer, task: L.LightningModule) -> np.ndarray:
        """See :func:`detection_grid`."""
        heading = f"prediction, scores from {self.score:g}"
        return detection_grid(samples, trainer.datamodule.palette, task.classes, heading)


class DetectionFiles(L.Callback):
    """Writes the detections of each picture, and the picture with the best of them, to the run's folder.

    ``detections/NAME.json`` is a list of objects, best first, with ``class``, ``category_id`` (as in the data's
    annotations), ``score``, ``bbox`` (x, y, width, height in pixels of the original) and, of detectors with masks,
    ``segmentation`` (COCO's compressed run lengths). ``pictures/NAME.png`` is for looking at. ``results.bbox.json`` and
    ``results.segm.json`` hold all of them in COCO's format, as ``evaluate --results`` and test servers read it, and
    ``images.json`` the images and classes that their ids mean: those of the data's annotations, where these list them.

    Args:
        score: Detections of a lower score are not drawn.
        most: Only so many of the best detections of a picture are drawn.
    """

    def __init__(self, score: float = 0.3, most: int = 100):
        self.score, self.most = score, most
        self.folder = Path()
        self.images: list[dict[str, Any]] = []
        self.results: dict[str, list[dict[str, Any]]] = {}

    def on_predict_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Find the folder, which all processes agree on."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.images, self.results = [], {kind: [] for kind in task.kinds}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: list[dict[str, Tensor]],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch."""
        colours = np.asarray(trainer.datamodule.palette) / 255
        for name, image, target, found in zip(batch["name"], _originals(batch), batch["target"], outputs):
            rows = _rows(found, task.classes, trainer.datamodule.category_ids)
            write_json(self.folder / "detections" / f"{name}.json", rows)
            size = dict(zip(("height", "width"), image.shape[-2:]))
            self.images.append({"id": target["image_id"], "file_name": target["file_name"], **size})
            rows = [{"image_id": target["image_id"], **_without(row, "class")} for row in rows]
            for kind, key in (("bbox", "segmentation"), ("segm", "bbox")):
                if kind in self.results:
                    self.results[kind] += [_without(row, key) for row in rows]
            with spared(f"pictures/{name}.png"):
                picture = detection_picture(image, best(found, self.score, self.most), colours, task.classes)
                write_picture(self.folder / "pictures" / f"{name}.png", picture)

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write what all processes have found, and say where the files lie."""
        parts: list[Any] = [(self.images, self.results)]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, (self.images, self.results))
        images = sorted((image for part, _ in parts for image in part), key=lambda image: image["id"])
        if not trainer.is_global_zero or not images:
            return
        kinds = [{"id": number, "name": name} for number, name in zip(trainer.datamodule.category_ids, task.classes)]
        write_json(self.folder / "images.json", {"images": images, "annotations": [], "categories": kinds})
        paths = [self.folder / "detections", self.folder / "pictures"]
        for kind in self.results:
            rows = sorted((row for _, part in parts for row in part[kind]), key=lambda row: row["image_id"])
            paths.append(self.folder / f"results.{kind}.json")
            write_json(paths[-1], rows)
        console = Console(soft_wrap=True)
        console.print(f"{len(images)} image{'s' if len(images) > 1 else ''} predicted")
        for path, label in zip(paths, ("detections", "pictures", "COCO results", "of masks")):
            console.print(f"{label:<12} {shown_path(path)}")


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def best(found: dict[str, Tensor], score: float, most: int) -> Objects:
    """The detections from a score on, on the CPU."""
    shown = (found["scores"] >= score).nonzero().squeeze(1)[:most]
    return Objects(**{key: found[key][shown].cpu() for key in Objects._fields if key in found})


def detection_picture(image: Tensor, objects: Objects, colours: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A picture uint8 (3, H, W) with its objects, as uint8 (height, width, 3), at least 800 pixels wide."""
    from matplotlib.figure import Figure

    height, width = image.shape[-2:]
    inches = 6.0  # for any picture, so that the letters are equally large in all
    with plain_text():
        figure = Figure((inches, inches * height / width), dpi=max(width, 800) / inches)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.axis("off")
        draw_objects(axis, image.permute(1, 2, 0).numpy(), objects, colours, classes, MAX_SIDE)
        return rendered(figure)


def detection_grid(
    samples: list[tuple[str, Tensor, Objects, Objects]],
    palette: Sequence[tuple[int, int, int]],
    classes: Sequence[str],
    heading: str = "prediction",
) -> np.ndarray:
    """Draw pairs of truth and prediction.

    Args:
        samples: Name, picture uint8 (3, H, W), true and found objects.
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
                draw_objects(axis, image.permute(1, 2, 0).numpy(), objects, colours, classes)
                axis.set_title(text, fontsize=8)
        return rendered(figure)


def draw_objects(
    axis: Any, image: np.ndarray, objects: Objects, colours: np.ndarray, classes: Sequence[str], side: int = PANEL
) -> None:
    """One picture with its objects, the worst first, so that the best lie on top; no side has more pixels."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    labels = objects.labels.tolist()
    pixels = image.astype(np.float32)
    order = range(len(labels) - 1, -1, -1)
    for number in order if objects.masks is not None else ():
        mask = objects.masks[number].numpy()
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
        right = x1 > 0.75 * width  # where the name would be cut off at the picture's edge
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


def _originals(batch: dict[str, Any]) -> Iterable[Tensor]:
    """The pictures of a batch, without padding, at their original size: uint8 (3, H, W) on the CPU."""
    for image, (height, width), target in zip(batch["image"], batch["size"].tolist(), batch["target"]):
        picture = image[None, :, :height, :width].cpu().float()
        size = tuple(target["original_size"].tolist())
        yield torch.nn.functional.interpolate(picture, size, mode="bilinear", antialias=True)[0].round().byte()


def _rows(found: dict[str, Tensor], classes: Sequence[str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    codes = encode_masks(found["masks"]) if "masks" in found else [None] * len(found["scores"])
    rows = []
    for (x1, y1, x2, y2), label, score, code in zip(*(found[k].tolist() for k in ("boxes", "labels", "scores")), codes):
        row = {"class": classes[label], "category_id": category_ids[label], "score": score}
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        rows.append(row if code is None else {**row, "segmentation": code})
    return rows
