"""A trained model in use: images of any kind and number in, results out, by any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from lk_downstream.errors import InputError
from lk_downstream.inference.inputs import Given, Layout, read_images
from lk_downstream.inference.preparation import PREPARATIONS, TOP, Preparation, Wanted
from lk_downstream.inference.results import Result

BATCH_PIXELS = 2**21  # of the images that pass the network at once: eight of 512 x 512


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

    def predict(
        self, x: Any, *, probabilities: bool = False, top: int = TOP, layout: Layout | None = None
    ) -> Result | list[Result]:
        """The result of an image, or a list of those of many, in their order.

        Args:
            x: See :func:`lk_downstream.inference.inputs.read_images`.
            probabilities: Give those of all classes, too (of a segmentation: for every pixel).
            top: How many classes of an image, best first.
            layout: ``HWC`` or ``CHW``, of arrays whose shape does not tell it.

        Returns:
            A ``ClassMap``, ``Detections`` or ``Classification``; for a folder, a list or a batch a list of them.

        Raises:
            InputError: Something given is no image, or in a way that can be taken for another.
        """
        given = read_images(x, self.network.channels, layout)
        results = list(self._results(given.images, self._wanted(probabilities, top)))
        return results[0] if given.single else results

    __call__ = predict

    def stream(
        self, x: Any, *, probabilities: bool = False, top: int = TOP, layout: Layout | None = None
    ) -> Iterator[Result]:
        """As :meth:`predict`, one result after the other: memory does not grow with the number of images."""
        images = read_images(x, self.network.channels, layout).images
        return self._results(images, self._wanted(probabilities, top))

    def _wanted(self, probabilities: bool, top: int) -> Wanted:
        if probabilities and self.task == "detection":
            raise InputError("detections have scores, and no probabilities of all classes: leave out probabilities")
        if top < 1:
            raise InputError(f"top is {top}: it must be at least 1")
        return Wanted(probabilities, top)

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
        batch = self._moved(self.preparation.batch([sample for sample, _ in waiting]))
        with self._lock, torch.inference_mode():
            found = self.preparation.run(self.network, batch, wanted)
        for (_, about), values in zip(waiting, found):
            yield self.preparation.result(values, **about)

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        def move(value: Any) -> Any:
            if isinstance(value, list):
                return [move(part) for part in value]
            return value.to(self.device) if hasattr(value, "to") else value

        return {name: move(value) for name, value in batch.items()}


def predictor(
    network: Network, settings: dict[str, Any], device: torch.device, batch_pixels: int | None = None
) -> Predictor:
    """The predictor of a network; ``settings`` as :class:`Preparation` takes them."""
    preparation = PREPARATIONS[network.kind](network.classes, settings)
    return Predictor(network, preparation, device, batch_pixels)
