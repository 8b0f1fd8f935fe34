"""The metric of a task on labelled data, by the task itself or by a file that was exported of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from lk_downstream import trust
from lk_downstream.data import DataModule
from lk_downstream.data.batches import Transformed
from lk_downstream.errors import InputError
from lk_downstream.metrics import CocoEvaluator
from lk_downstream.tasks import Detection, Segmentation, Task

SMALLEST = 1e-30  # probability, whose logarithm is finite


class Exported(Protocol):
    """What is asked of an exported file, see :class:`lk_downstream.exported.ExportedModel`."""

    resizes: bool

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """What the task's would give."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Of each class."""


def validation_data(source: str | os.PathLike, task: Task) -> DataModule:
    """The data of a config, ready for validation.

    Args:
        source: A config, or the folder of a run, which holds one.
        task: Which is to be scored on them.

    Raises:
        InputError: There is no such file, it has no data, or these are of other classes.
    """
    path = Path(source) / "config.yaml" if Path(source).is_dir() else Path(source)
    try:
        settings = trust.read_yaml(path)["data"]
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(DataModule, "data")
        data = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    except (OSError, KeyError, TypeError, ArgumentError) as error:
        raise InputError(f"{path} is no config with data: give a run's folder or its config.yaml") from error
    if len(data.classes) != len(task.classes):
        raise InputError(
            f"{path} has data of {len(data.classes)} classes where the model has {len(task.classes)}: give the config "
            "of its run"
        )
    data.use_channels(task.channels)
    data.prepare_data()
    data.setup("validate")
    return data


@torch.inference_mode()
def score(task: Task, data: DataModule, file: Exported | None = None) -> dict[str, float]:
    """By its name the metric by which the task chooses its best checkpoint; with masks also theirs, ``segm_AP``.

    Args:
        task: It is put into evaluation mode, and else left as it was.
        data: See :func:`validation_data`.
        file: Predicts in place of the task.
    """
    scored, names = copy.copy(task.eval()), [task.monitor.split("/")[-1]]
    if isinstance(task, Detection):
        options = (data.category_ids, task.kinds, task.evaluation, str(data.annotations))
        metric = scored.evaluator = CocoEvaluator(data.truth(), *options)
        names = [f"{kind}_AP" for kind in task.kinds]
    else:
        metric = task.metric
    if file is not None:
        _stand_in(scored, file)
    try:
        for batch in data.val_dataloader() if file is None or not file.resizes else _as_they_are(data):
            scored.validation_step(batch, 0)
        found = metric.compute()
        return {name: float(found[name]) for name in names}
    finally:
        for each in (metric, getattr(task, "boundary", None)):
            if each is not None:
                each.reset()


def _as_they_are(data: DataModule) -> Iterable[dict[str, Any]]:
    """The validation images before the test-time resize, each a batch."""
    dataset = data.val_set.dataset if isinstance(data.val_set, Transformed) else data.val_set
    for index in range(len(dataset)):
        yield data.collate_val([dataset[index]])


def _stand_in(task: Task, file: Exported) -> None:
    """Let a file say what the task would say in its validation."""
    if isinstance(task, Segmentation):
        task.predict = lambda images: file.predict_step({"image": images}, 0)
    elif isinstance(task, Detection):

        def predict(images: Tensor, sizes: Tensor, original_sizes: list[Tensor]) -> list[dict[str, Tensor]]:
            if file.resizes:  # it pads by itself
                height, width = sizes[0].tolist()
                return file.predict_step({"image": images[..., :height, :width]}, 0)
            targets = [{"original_size": size} for size in original_sizes]
            return file.predict_step({"image": images, "size": sizes, "target": targets}, 0)

        task.predict = predict
    elif task.kind == "multilabel":
        task.logits = lambda images: file.probabilities(images).double().logit(SMALLEST)
    else:
        task.logits = lambda images: file.probabilities(images).clamp(min=SMALLEST).log()
