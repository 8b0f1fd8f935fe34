"""How images become batches of a task, and what its network says of them results: in Python as for files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lk_downstream.data.batches import collate_evaluation
from lk_downstream.data.classes import Palette, bright_palette, default_palette
from lk_downstream.data.classification_transforms import EvaluationImage, collate_images
from lk_downstream.data.detection_batches import collate_detection
from lk_downstream.data.detection_module import WithTarget
from lk_downstream.data.detection_transforms import ResizeToFit
from lk_downstream.errors import InputError
from lk_downstream.inference.arrays import array
from lk_downstream.inference.inputs import Given
from lk_downstream.inference.results import Classification, ClassMap, Detections, Result

LARGEST = 100_000  # of sides and numbers that a file may set
TOP = 5  # classes of an image


@dataclass(frozen=True)
class Wanted:
    """What is wanted of each image beside the usual.

    Attributes:
        probabilities: Of all classes (of every pixel), too.
        top: How many classes of an image.
    """

    probabilities: bool = False
    top: int = TOP


class Preparation(ABC):
    """What is done before and after the network of a task.

    Args:
        classes: Names of the classes.
        settings: Plain data, as :meth:`lk_downstream.data.DataModule.preparation` gives them and checkpoints keep them;
            what they lack has the value of the data module's default.

    Raises:
        InputError: A setting is none; the message goes on from a file's name.
    """

    palette: Palette

    def __init__(self, classes: Sequence[str], settings: dict[str, Any]):
        self.classes, self.settings = tuple(classes), settings
        number = len(self.classes)
        palette = self._get("palette", self._palette(number))
        fits = (
            isinstance(palette, (list, tuple))
            and len(palette) >= number
            and all(_are_numbers(c, 3, 255) for c in palette)
        )
        if not fits:
            raise InputError(f"has a palette that is no list of {number} colours")
        self.palette = [tuple(colour) for colour in palette]
        ids = self._get("category_ids", range(1, number + 1))
        if not _are_numbers(ids, number, 2**53):
            raise InputError(f"has category_ids that are no list of {number} numbers")
        self.category_ids = tuple(ids)
        value_range = self.settings.get("value_range")
        if value_range is not None and not _is_range(value_range):
            raise InputError("has a value_range that is not two numbers, the smaller first")
        self.value_range = tuple(value_range) if value_range else None
        self.resizes = self._get("inside", False) is not True  # else the network takes images as they are

    def _get(self, name: str, default: Any) -> Any:
        found = self.settings.get(name)
        return default if found is None else found

    _palette = staticmethod(default_palette)

    @abstractmethod
    def sample(self, given: Given) -> dict[str, Any]:
        """The image in the size in which it becomes part of a batch, as an item of the task's data module."""

    @abstractmethod
    def batch(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of samples whose images have one size."""

    @abstractmethod
    def run(self, task: Any, batch: dict[str, Any], wanted: Wanted) -> list[dict[str, np.ndarray]]:
        """What the task says of each image of a batch, by the names of the fields of the result."""

    @abstractmethod
    def result(self, found: dict[str, np.ndarray], **about: Any) -> Result:
        """The result of an image, from what :meth:`run` gives of it; ``about`` has its name, size and source."""

    def outputs(self, outputs: Any) -> list[dict[str, np.ndarray]]:
        """What :meth:`run` gives, from the outputs of the task's ``predict_step``."""
        raise NotImplementedError

    def about(self, given: Given) -> dict[str, Any]:
        """What a result knows of its image and the model."""
        return {**self.known(), "name": given.name, "size": tuple(given.image.shape[-2:]), "source": given.source}

    def known(self) -> dict[str, Any]:
        """What every result knows of the model."""
        return {"classes": self.classes, "palette": self.palette, "category_ids": self.category_ids}


class SegmentationPreparation(Preparation):
    """Images at their own size; the test-time rule is the task's."""

    def __init__(self, classes: Sequence[str], settings: dict[str, Any]):
        super().__init__(classes, settings)
        values = self._get("label_values", range(256))
        if not _are_numbers(values, 256, 255):
            raise InputError("has label_values that are not 256 numbers of 0 to 255")
        self.label_values = np.array(values, np.uint8)

    def sample(self, given: Given) -> dict[str, Any]:
        """See :meth:`Preparation.sample`."""
        return {"image": given.image, "name": given.name}

    def batch(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """See :meth:`Preparation.batch`."""
        return collate_evaluation(samples)

    def run(self, task: Any, batch: dict[str, Any], wanted: Wanted) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.run`."""
        if not wanted.probabilities:
            return self.outputs(task.predict_step(batch, 0))
        found = task.probabilities(batch["image"])
        masks = found.argmax(1).to(torch.uint8)
        return [{"mask": array(mask), "probabilities": array(part)} for mask, part in zip(masks, found)]

    def outputs(self, outputs: Tensor) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.outputs`."""
        return [{"mask": mask} for mask in array(outputs)]

    def result(self, found: dict[str, np.ndarray], **about: Any) -> ClassMap:
        """See :meth:`Preparation.result`."""
        return ClassMap(**found, label_values=self.label_values, **about)


class DetectionPreparation(Preparation):
    """Images resized to fit into a scale."""

    _palette = staticmethod(bright_palette)

    def __init__(self, classes: Sequence[str], settings: dict[str, Any]):
        super().__init__(classes, settings)
        scale = self._get("scale", (1333, 800))
        if not _are_numbers(scale, 2, LARGEST) or min(scale) < 1:
            raise InputError("has a scale that is not two sides in pixels")
        self.scale = tuple(scale)
        self.resize = WithTarget(ResizeToFit(self.scale))

    def sample(self, given: Given) -> dict[str, Any]:
        """See :meth:`Preparation.sample`."""
        if not self.resizes:
            return {"image": given.image, "name": given.name}
        return self.resize({"image": given.image, "name": given.name, "image_id": 0, "file_name": given.name})

    def batch(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """See :meth:`Preparation.batch`."""
        return collate_detection(samples) if self.resizes else collate_evaluation(samples)

    def run(self, task: Any, batch: dict[str, Any], wanted: Wanted) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.run`."""
        return self.outputs(task.predict_step(batch, 0))

    def outputs(self, outputs: list[dict[str, Tensor]]) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.outputs`."""
        return [{name: array(values) for name, values in found.items()} for found in outputs]

    def result(self, found: dict[str, np.ndarray], **about: Any) -> Detections:
        """See :meth:`Preparation.result`."""
        return Detections(**found, **about)


class ClassificationPreparation(Preparation):
    """Images resized and cropped to a square, as in the papers' evaluation."""

    def __init__(self, classes: Sequence[str], settings: dict[str, Any]):
        super().__init__(classes, settings)
        size, crop = self._get("size", 224), self.settings.get("crop")
        if not _are_numbers([size], 1, LARGEST) or size < 1:
            raise InputError("has a size that is no number of pixels")
        if crop is not None and not (type(crop) in (int, float) and 0 < crop <= 1):
            raise InputError("has a crop that is no share above 0 and at most 1")
        self.resize = EvaluationImage(size, crop)

    def sample(self, given: Given) -> dict[str, Any]:
        """See :meth:`Preparation.sample`."""
        sample = {"image": given.image, "name": given.name}
        return self.resize(sample) if self.resizes else sample

    def batch(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """See :meth:`Preparation.batch`."""
        return collate_images(samples)

    def run(self, task: Any, batch: dict[str, Any], wanted: Wanted) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.run`."""
        probabilities = task.probabilities(batch["image"])
        rows = self.outputs(probabilities.topk(min(wanted.top, len(self.classes))))
        if wanted.probabilities:
            rows = [{**row, "probabilities": array(part)} for row, part in zip(rows, probabilities)]
        return rows

    def outputs(self, outputs: tuple[Tensor, Tensor]) -> list[dict[str, np.ndarray]]:
        """See :meth:`Preparation.outputs`."""
        return [{"scores": scores, "labels": labels} for scores, labels in zip(*map(array, outputs))]

    def result(self, found: dict[str, np.ndarray], **about: Any) -> Classification:
        """See :meth:`Preparation.result`."""
        return Classification(**found, **about)


PREPARATIONS: dict[str, type[Preparation]] = {
    "segmentation": SegmentationPreparation,
    "detection": DetectionPreparation,
    "classification": ClassificationPreparation,
    "multilabel": ClassificationPreparation,
}


def _is_range(values: Any) -> bool:
    numbers = isinstance(values, (list, tuple)) and all(type(value) in (int, float) for value in values)
    return numbers and len(values) == 2 and values[0] < values[1]


def _are_numbers(values: Any, count: int, most: float) -> bool:
    return (
        isinstance(values, (list, tuple, range))
        and len(values) == count
        and all(type(value) is int and 0 <= value <= most for value in values)
    )
