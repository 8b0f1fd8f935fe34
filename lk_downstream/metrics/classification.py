"""Classification accuracy and calibration from counts over the whole data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lk_downstream.errors import InputError

# Confidences are added as whole numbers, exactly, so that no sum depends on the order of images or processes.
UNIT_BITS = 38  # float32 values of 2**-14 and above are multiples of 2**-38; int64 holds the sum of 2**25 of them
MEANS = ("mF1", "mPrecision", "mRecall")  # over the classes that occur in the truth or in a prediction
LARGEST_MATRIX = 2048  # classes, above which pairs are not counted: 32 MiB


class ClassificationMetric(Metric):
    """Top-1 and top-5 accuracy, expected calibration error, precision, recall, F1 and confusion matrix.

    Whole numbers are summed over all images, and over all processes once, at :meth:`compute`. The calibration error
    is that of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: bins of equal width of the largest
    probability; the mean over images of the distance between accuracy and mean confidence of their bins.

    Args:
        classes: Class names; their number is the number of classes.
        bins: Bins of the calibration error.

    Attributes:
        metrics: Names of the scalars of :meth:`compute`.
    """

    full_state_update = False
    higher_is_better = True
    correct: Tensor
    near: Tensor
    truth: Tensor
    predicted: Tensor
    counts: Tensor
    hits: Tensor
    confidences: Tensor
    matrix: Tensor

    def __init__(self, classes: Sequence[str], bins: int = 15):
        super().__init__()
        self.classes, self.bins = tuple(classes), bins
        self.within = min(5, len(self.classes))
        self.metrics = ("top1", *(["top5"] if self.within < len(self.classes) else []), "ECE", *MEANS)
        pairs = len(self.classes) if len(self.classes) <= LARGEST_MATRIX else 0
        shapes = dict.fromkeys(("correct", "near", "truth", "predicted"), (len(self.classes),))
        shapes |= dict.fromkeys(("counts", "hits", "confidences"), (bins,)) | {"matrix": (pairs, pairs)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count some images.

        Args:
            logits: (N, classes).
            target: Class indices, int64, (N,).

        Raises:
            InputError: ``target`` holds a value that is no class.
        """
        number = len(self.classes)
        if len(target) and not (target.min() >= 0 and target.max() < number):
            raise InputError(f"the labels go from {target.min()} to {target.max()}, but there are {number} classes")
        ranked = logits.float().topk(self.within).indices
        first = ranked[:, 0]
        hit = first == target
        confidence = logits.float().softmax(1).gather(1, first[:, None])[:, 0]
        whole = (confidence * 2.0**UNIT_BITS).round().long()  # exact in float32: a power of two
        # Bins are closed above: (0, 1/15], (1/15, 2/15], ... In whole numbers, as not every GPU has float64.
        place = ((whole * self.bins - 1) >> UNIT_BITS).clamp(0, self.bins - 1)
        # Not in place: the states may have been made in inference mode.
        self.truth = self.truth + target.bincount(minlength=number)
        self.predicted = self.predicted + first.bincount(minlength=number)
        self.correct = self.correct + target[hit].bincount(minlength=number)
        self.near = self.near + target[(ranked == target[:, None]).any(1)].bincount(minlength=number)
        self.counts = self.counts + place.bincount(minlength=self.bins)
        self.hits = self.hits + place[hit].bincount(minlength=self.bins)
        in_bin = place[:, None] == torch.arange(self.bins, device=place.device)
        self.confidences = self.confidences + torch.where(in_bin, whole[:, None], 0).sum(0)
        if len(self.matrix):
            pairs = (target * number + first).bincount(minlength=number**2)
            self.matrix = self.matrix + pairs.view(number, number)

    def compute(self) -> dict[str, Tensor]:
        """All metrics as fractions of 1, float64, on the CPU: not every GPU has that type.

        Returns:
            ``top1``, ``top5`` (left out of five classes or fewer, where it always is 1) and ``ECE``, ``mF1``,
            ``mPrecision``, ``mRecall`` (scalars); ``accuracy``, which is the recall, ``precision`` and ``F1`` (one
            value a class, NaN where it does not occur in the truth, in a prediction or in both); ``bin_count`` (int64),
            ``bin_confidence`` and ``bin_accuracy`` (one value a bin, NaN where it is empty); and ``matrix`` (int64,
            rows are the truth; empty with more than 2048 classes).
        """
        counts = {name: getattr(self, name).cpu() for name in self._defaults}
        total, number = counts["truth"].sum().double(), counts["counts"].double()
        sums = counts["confidences"].double() / 2.0**UNIT_BITS
        correct = counts["correct"].double()
        recall, precision = correct / counts["truth"], correct / counts["predicted"]
        harmonic = 2 * correct / (counts["truth"] + counts["predicted"])
        near = {"top5": counts["near"].sum() / total} if "top5" in self.metrics else {}
        return {
            "top1": counts["correct"].sum() / total,
            **near,
            "ECE": (sums - counts["hits"]).abs().sum() / total,
            "mF1": harmonic.nanmean(),
            "mPrecision": precision.nanmean(),
            "mRecall": recall.nanmean(),
            "accuracy": recall,
            "precision": precision,
            "F1": harmonic,
            "bin_count": counts["counts"],
            "bin_confidence": sums / number,
            "bin_accuracy": counts["hits"] / number,
            "matrix": counts["matrix"],
        }


def confused_pairs(matrix: Tensor, classes: Sequence[str], most: int = 20) -> list[dict[str, str | int | float]]:
    """The most frequent errors, most frequent first: true and predicted class, how often, and of which share of the
    true class's images.

    Args:
        matrix: int64 (classes, classes), rows are the truth.
        classes: Class names.
        most: Largest number of pairs.
    """
    wrong = matrix.clone().fill_diagonal_(0)
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    pairs = []
    for count, place in zip(counts[:most].tolist(), places[:most].tolist()):
        if count:
            truth, prediction = divmod(place, len(classes))
            share = count / matrix[truth].sum().item()
            pairs.append({"truth": classes[truth], "prediction": classes[prediction], "count": count, "share": share})
    return pairs
