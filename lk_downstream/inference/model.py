"""A trained model in use: images of any kind and number in, results out, by any number of threads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lk_downstream.errors import InputError
from lk_downstream.inference.inputs import Given, Layout, Opened, read_images, read_rows
from lk_downstream.inference.large import rule_of, stream_classes
from lk_downstream.inference.preparation import PREPARATIONS, TOP, Preparation, Wanted
from lk_downstream.inference.results import Result
from lk_downstream.inference.tiled_tiff import MaskTiff
from lk_downstream.inference.tiles import find_in_tiles
from lk_downstream.reports.masks import colour_table

BATCH_PIXELS = 2**21  # of the images that pass the network at once: eight of 512 x 512
Progress = Callable[[int, int], None]  # told how many rows of an image are done, of how many


class Network(Protocol):
    """What a :class:`Predictor` asks of a task, or of what stands in for one.

    Attributes:
        kind: ``segmentation``, ``detection``, ``classification`` or ``multilabel``.
        classes: Names of the classes.
        channels: Of the images that it takes.
    """

    kind: str
    classes: tuple[str, ...]
    channels: int

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """The outputs for a batch, see the tasks."""


class Predictor:
    """Predicts on images; see :func:`lk_downstream.load`, which makes one from what a training has left.

    Any number of threads may use it: each reads and resizes its own images, and the network takes one batch at a time.

    Args:
        network: In eval mode, on ``device``.
        preparation: What is done before and after it.
        device: Where it computes.
        batch_pixels: How many pixels of prepared images pass the network at once; an image with more passes alone.
            None: on a CPU each image alone, which gives the same bits whatever it comes with; else ``BATCH_PIXELS``.

    Attributes:
        task: ``segmentation``, ``detection``, ``classification`` or ``multilabel``.
        classes: Names of the classes.
        palette: A colour (red, green, blue) of 0 to 255 for each class.
    """

    def __init__(
        self, network: Network, preparation: Preparation, device: torch.device, batch_pixels: int | None = None
    ):
        if batch_pixels is None:
            batch_pixels = 1 if device.type == "cpu" else BATCH_PIXELS
        if batch_pixels < 1:
            raise InputError(f"batch_pixels is {batch_pixels}: it must be at least 1")
        self.network, self.preparation, self.device, self.batch_pixels = network, preparation, device, batch_pixels
        self.task, self.classes, self.palette = network.kind, preparation.classes, preparation.palette
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task}, {len(self.classes)} classes, {self.device})"

    def predict(self, x: Any, **options: Any) -> Result | list[Result]:
        """The result of an image, or a list of those of many, in their order.

        Args:
            x: See :func:`lk_downstream.inference.inputs.read_images`.
            **options: See :meth:`stream`.

        Returns:
            A ``ClassMap``, ``Detections`` or ``Classification``; for a folder, a list or a batch a list of them.

        Raises:
            InputError: Something given is no image, or in a way that can be taken for another.
        """
        single, results = self._begun(x, **options)
        found = list(results)
        return found[0] if single else found

    __call__ = predict

    def stream(self, x: Any, **options: Any) -> Iterator[Result]:
        """As :meth:`predict`, one result after the other: memory does not grow with the number of images.

        Args:
            x: See :func:`lk_downstream.inference.inputs.read_images`.
            **options: ``probabilities``: give those of all classes, too (of a segmentation: for every pixel). ``top``:
                how many classes of an image, best first. ``layout``: ``HWC`` or ``CHW``, of arrays whose shape does not
                tell it. ``tile``: predict at the image's own size, in tiles of so many pixels a side, which ``overlap``
                by so many (segmentation and detection), see :meth:`write_mask`.
        """
        return self._begun(x, **options)[1]

    def write_mask(
        self,
        x: Any,
        path: str | Path,
        tile: int | None = None,
        overlap: int | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """The classes of an image of any size, as a tiled, compressed TIFF file with the colours of the classes.

        The image is seen at its own size in windows whose logits are averaged where they overlap, as by the rule
        ``Slide``; the result is that of the whole image by that rule. PNG, JPEG, TIFF and WebP files are read row by
        row; memory is bounded by ``tile`` rows of the image's width, and four maps of all classes of a tile. Files of
        sums beside the output take ``overlap`` rows of the image's width, times classes, times 8 bytes. The
        georeference of a TIFF file is kept. The same call goes on where one was killed.

        Args:
            x: A path, or any other single image.
            path: The file, ending with ``.tif``.
            tile: Side of the windows; None: that of the task's rule ``Slide``, else 1024.
            overlap: Of windows, in pixels; None: that of the rule, else a third of the side.
            progress: Told how many rows are done, of how many.

        Raises:
            InputError: The task is no segmentation, or what is given is no image.
        """
        if self.task != "segmentation":
            raise InputError(f"a {self.task} gives no masks of whole images: use predict")
        images, single = read_rows(x, self.network.channels, None, self.preparation.value_range)
        if not single:
            raise InputError("write_mask takes one image: call it for each")
        opened = next(images)
        rule = rule_of(self.network, tile, overlap)
        file = MaskTiff(path, opened.rows.size, self._about(opened, rule.crop, rule.stride))
        height = opened.rows.size[0]
        if file.done < height:
            for first, rows in self._classes(opened, rule, file.done, file.folder):
                file.add(first, rows)
                if progress:
                    progress(file.done, height)
        values = self.preparation.label_values
        colours = np.zeros((256, 3), np.uint8)
        colours[values[: len(self.classes)]] = colour_table(self.palette)[: len(self.classes)]
        return file.finish(colours, values, opened.path)

    def _about(self, opened: Opened, *windows: tuple[int, int]) -> dict[str, Any]:
        """What a mask is made of: the same image, model and windows give the same."""
        status = opened.path.stat() if opened.path else None
        image = [str(opened.path.absolute()), status.st_size, status.st_mtime_ns] if status else None
        if image is None:
            image = hashlib.blake2b(np.ascontiguousarray(opened.rows.image.numpy()), digest_size=16).hexdigest()
        return {"image": image, "model": self._digest, "windows": [list(pair) for pair in windows]}

    @cached_property
    def _digest(self) -> str:
        checksum = hashlib.blake2b(digest_size=16)
        for name, tensor in self.network.state_dict().items():
            checksum.update(name.encode())
            checksum.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return checksum.hexdigest()

    def _begun(
        self,
        x: Any,
        *,
        probabilities: bool = False,
        top: int = TOP,
        layout: Layout | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> tuple[bool, Iterator[Result]]:
        """Whether a single image is given, and the results."""
        if probabilities and (self.task == "detection" or (tile, overlap) != (None, None)):
            raise InputError(
                "probabilities of all classes are given of whole images, and not of detections: leave them out"
            )
        if top < 1:
            raise InputError(f"top is {top}: it must be at least 1")
        if tile is None and overlap is None:
            given = read_images(x, self.network.channels, layout, self.preparation.value_range)
            return given.single, self._results(given.images, Wanted(probabilities, top))
        if self.task not in ("segmentation", "detection"):
            raise InputError("an image is classified as a whole: leave out tile and overlap")
        images, single = read_rows(x, self.network.channels, layout, self.preparation.value_range)
        return single, (self._tiled(opened, tile, overlap) for opened in images)

    def _tiled(self, opened: Opened, tile: int | None, overlap: int | None, progress: Progress | None = None) -> Result:
        about = {"name": opened.name, "size": opened.rows.size, "source": opened.source}
        if self.task == "segmentation":
            mask = np.empty(opened.rows.size, np.uint8)
            for first, rows in self._classes(opened, rule_of(self.network, tile, overlap)):
                mask[first : first + len(rows)] = rows
            found = {"mask": mask}
        else:
            tile = min(self.preparation.scale) if tile is None else tile
            overlap = tile // 4 if overlap is None else overlap
            batch = max(1, self.batch_pixels // tile**2)
            found = find_in_tiles(self._find, opened.rows, tile, overlap, batch, progress)
        return self.preparation.result(found, **self.preparation.known(), **about)

    def _classes(
        self, opened: Opened, rule: Any, begin: int = 0, folder: Path | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        align, batch = self.network.head.align_corners, max(1, self.batch_pixels // (rule.crop[0] * rule.crop[1]))
        sizes = (len(self.classes), align, batch, begin, folder)
        return stream_classes(self._logits, opened.rows, rule, *sizes)

    def _logits(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        with self._lock, torch.inference_mode():
            return self.network.head_logits(images)

    def _find(self, tiles: list[Tensor]) -> list[dict[str, np.ndarray]]:
        given = [Given("", image, np.empty(0)) for image in tiles]
        return self._found([self.preparation.sample(one) for one in given], Wanted())

    def _results(self, images: Iterator[Given], wanted: Wanted) -> Iterator[Result]:
        """In the order of the images; those of one size that follow one another share a batch."""
        waiting: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for given in images:
            sample, about = self.preparation.sample(given), self.preparation.about(given)
            shape = sample["image"].shape
            if waiting and waiting[0][0]["image"].shape != shape:
                yield from self._run(waiting, wanted)
                waiting = []
            waiting.append((sample, about))
            if (len(waiting) + 1) * shape[-2] * shape[-1] > self.batch_pixels:
                yield from self._run(waiting, wanted)
                waiting = []
        if waiting:
            yield from self._run(waiting, wanted)

    def _run(self, waiting: list[tuple[dict[str, Any], dict[str, Any]]], wanted: Wanted) -> Iterator[Result]:
        for (_, about), values in zip(waiting, self._found([sample for sample, _ in waiting], wanted)):
            yield self.preparation.result(values, **about)

    def _found(self, samples: list[dict[str, Any]], wanted: Wanted) -> list[dict[str, np.ndarray]]:
        batch = {name: self._moved(value) for name, value in self.preparation.batch(samples).items()}
        with self._lock, torch.inference_mode():
            return self.preparation.run(self.network, batch, wanted)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._moved(part) for part in value]
        return value.to(self.device) if hasattr(value, "to") else value


def predictor(
    network: Network, settings: dict[str, Any], device: torch.device, batch_pixels: int | None = None
) -> Predictor:
    """The predictor of a network; ``settings`` as :class:`Preparation` takes them."""
    preparation = PREPARATIONS[network.kind](network.classes, settings)
    return Predictor(network, preparation, device, batch_pixels)
