"""Accuracy on parts of a data set with a choice of classes each, mean corruption error, and shape bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

# Top-1 errors of AlexNet at severities 1 to 5 of ImageNet-C: Hendrycks and Dietterich, "Benchmarking Neural Network
# Robustness to Common Corruptions and Perturbations", ICLR 2019. Their means are those in imagenet.py of
# google-research/augmix and, rounded, those in the paper.
ALEXNET_ERRORS = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}


def corruption_error(name: str, errors: Mapping[int, float]) -> float:
    """The errors at the severities of a corruption, summed and divided by the sum of AlexNet's at the same severities.

    Args:
        name: Of a corruption of ImageNet-C, such as ``gaussian_noise``.
        errors: Top-1 errors, fractions of 1, by severity 1 to 5.
    """
    return math.fsum(errors.values()) / math.fsum(ALEXNET_ERRORS[name][severity - 1] for severity in errors)


def mean_corruption_error(errors: Mapping[str, Mapping[int, float]]) -> float:
    """The mean of :func:`corruption_error` over corruptions, by name; 1 is AlexNet's, NaN without any."""
    found = [corruption_error(name, values) for name, values in errors.items()]
    return math.fsum(found) / len(found) if found else math.nan


class PartAccuracy(Metric):
    """Top-1 hits and images of the parts of a data set, where each part has its own choice of the classes.

    Args:
        choices: bool (parts, classes): which classes a part has. Only their logits are compared, as in the published
            evaluations of ImageNet-A and ImageNet-R (Hendrycks et al., CVPR 2021 and ICCV 2021).
    """

    full_state_update = False
    hits: Tensor
    images: Tensor

    def __init__(self, choices: Tensor):
        super().__init__()
        self.register_buffer("choices", choices, persistent=False)
        for name in ("hits", "images"):
            self.add_state(name, torch.zeros(len(choices), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, part: Tensor) -> None:
        """Count some images.

        Args:
            logits: (N, classes).
            target: Class indices, int64, (N,).
            part: Part of each image, int64, (N,).
        """
        guess = logits.masked_fill(~self.choices[part], -math.inf).argmax(1)
        # Not in place: the states may have been made in inference mode.
        self.hits = self.hits + part[guess == target].bincount(minlength=len(self.choices))
        self.images = self.images + part.bincount(minlength=len(self.choices))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Hits and images of each part, int64."""
        return self.hits, self.images


class ShapeBias(Metric):
    """Whether images of conflicting cues are classified by their shape or by their texture.

    A category's probability is the mean of those of its classes, and the most probable is the decision; the shape bias
    is the number of decisions for the shape over those for the shape or the texture (Geirhos et al., ICLR 2019).

    Args:
        categories: Class indices of each category.
        classes: Number of classes.
    """

    full_state_update = False
    shape: Tensor
    texture: Tensor
    conflicts: Tensor
    hits: Tensor

    def __init__(self, categories: Sequence[Sequence[int]], classes: int):
        super().__init__()
        share = torch.zeros(classes, len(categories))
        for column, members in enumerate(categories):
            share[list(members), column] = 1 / len(members)
        self.register_buffer("share", share, persistent=False)
        for name in ("shape", "texture", "conflicts", "hits"):
            self.add_state(name, torch.zeros(len(categories), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, shape: Tensor, texture: Tensor) -> None:
        """Count some images.

        Args:
            logits: (N, classes).
            shape: Category of each image's shape, int64 (N,).
            texture: Of its texture, likewise; -1: not an image of this set, which does not count.
        """
        decision = (logits.float().softmax(1) @ self.share).argmax(1)
        known = texture >= 0
        shape = shape.where(known, 0)  # what does not count may have any label
        conflict = known & (shape != texture)
        counted = {
            "hits": known & (decision == shape),
            "conflicts": conflict,
            "shape": conflict & (decision == shape),
            "texture": conflict & (decision == texture),
        }
        for name, mask in counted.items():
            total = getattr(self, name)
            # Not in place: the states may have been made in inference mode.
            setattr(self, name, total + torch.zeros_like(total).index_add(0, shape, mask.to(total.dtype)))

    def compute(self) -> dict[str, Tensor]:
        """By category of the shape, int64: ``hits`` of the shape among all images, ``conflicts``, and the decisions
        for ``shape`` and ``texture`` among these.
        """
        return {name: getattr(self, name) for name in ("hits", "conflicts", "shape", "texture")}
