"""ImageNet-A, -R, -Sketch, -C and -C-bar, and images of conflicting cues, in their own layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import ConcatDataset

from lk_downstream.data.batches import Transformed
from lk_downstream.data.classification import ClassFolder
from lk_downstream.data.classification_module import ClassificationData
from lk_downstream.data.classification_transforms import collate_images
from lk_downstream.data.cue_conflict import CueConflict
from lk_downstream.data.module import DataModule
from lk_downstream.errors import InputError, near_names

SEVERITIES = (1, 2, 3, 4, 5)


class Benchmark(NamedTuple):
    """A test set of other images of ImageNet's classes.

    Attributes:
        name: Its name.
        classes: How many classes it has; None: not known.
        corruptions: Names of its corruptions, each at severities 1 to 5; empty if the class folders are at the top.
        layout: Of its files, where these are not in class folders.
    """

    name: str
    classes: int | None
    corruptions: tuple[str, ...] = ()
    layout: str = ""


# github.com/hendrycks/robustness
_C = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
_C += ("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
# Mintun et al., "On Interaction Between Augmentations and Corruptions in Natural Corruption Robustness", NeurIPS 2021
_C_BAR = ("blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout", "cocentric_sine_waves")
_C_BAR += ("inverse_sparkles", "perlin_noise", "plasma_noise", "single_frequency_greyscale", "sparkles")

BENCHMARKS = {
    "imagenet_a": Benchmark("ImageNet-A", 200),
    "imagenet_r": Benchmark("ImageNet-R", 200),
    "imagenet_sketch": Benchmark("ImageNet-Sketch", 1000),
    "imagenet_c": Benchmark("ImageNet-C", 1000, _C),
    "imagenet_c_bar": Benchmark("ImageNet-C-bar", None, _C_BAR),
    "cue_conflict": Benchmark("Cue conflict", 16, layout="<shape>/<shape>1-<texture>2.png"),
}


class Tree(ClassFolder):
    """Class folders, named as those of the data that the model was trained on, or some of them.

    Args:
        folder: Where the class folders are.
        class_folders: Names of the class folders of the training data, in the order of their labels.
    """

    orientation = False  # as in the evaluation of ImageNet

    def __init__(self, folder: Path, class_folders: Sequence[str]):
        super().__init__(split=folder.name, root=str(folder), folder=".")
        self.known = tuple(class_folders)

    @property
    def class_folders(self) -> tuple[str, ...]:
        """Those of the training data."""
        return self.known

    def check(self, folders: Sequence[str]) -> None:
        """Refuse a folder of a class that the model does not have."""
        known = set(self.known)
        if unknown := [name for name in folders if name not in known]:
            raise InputError(
                f"{self.folder / unknown[0]} is no class of the model ({len(unknown)} of {len(folders)} folders are "
                f"none), whose first is {self.known[0]}: give a model and a data.dataset of ImageNet-1K"
            )

    def choice(self) -> torch.Tensor:
        """Which classes occur, bool (classes,)."""
        there = set(self.found)
        return torch.tensor([name in there for name in self.known])


class Part(NamedTuple):
    """A tree of class folders, and which part of which benchmark it is."""

    benchmark: str  # key of BENCHMARKS
    corruption: str | None
    severity: int | None
    tree: Tree | CueConflict


class Trees(NamedTuple):
    """What was found of the benchmarks.

    Attributes:
        parts: What there is, in the order of the benchmarks, corruptions and severities.
        missing: What there is not, by the key of the benchmark: ``glass_blur``, ``fog/5``, ``17 of 200 classes``.
    """

    parts: list[Part]
    missing: dict[str, list[str]]


def find_trees(roots: Mapping[str, str | None], class_folders: Sequence[str]) -> Trees:
    """Look for the benchmarks in their own layouts; corruptions may lie in folders of their groups (``noise``, ...).

    Args:
        roots: Their folders by the keys of :data:`BENCHMARKS`; None: not asked for.
        class_folders: As of :class:`Tree`.

    Raises:
        InputError: No benchmark is asked for; a folder is missing or holds nothing of its benchmark.
    """
    given = {key: Path(root) for key, root in roots.items() if root}
    if not given:
        options = ", ".join(f"--{key}" for key in BENCHMARKS)
        raise InputError(f"nothing to evaluate: give the folders of test sets by {options}")
    found = Trees([], {})
    for key, root in given.items():
        benchmark = BENCHMARKS[key]
        if benchmark.layout:
            tree = CueConflict(root, class_folders)
            parts = [Part(key, None, None, tree)] if root.is_dir() and len(tree) else []
        else:
            parts = list(
                _corrupted(key, root, class_folders) if benchmark.corruptions else _plain(key, root, class_folders)
            )
        if not parts:
            folders = "<corruption>/<severity>/<class>" if benchmark.corruptions else "<class>"
            layout = root / (benchmark.layout or f"{folders}/*.JPEG")
            first = f", such as {benchmark.corruptions[0]}/1/{class_folders[0]}" if benchmark.corruptions else ""
            there = sorted(item.name for item in root.iterdir()) if root.is_dir() else []
            holds = f"holds {', '.join(there[:3]) or 'nothing'}" if root.is_dir() else "is no folder"
            hint = "" if root.is_dir() else near_names(root.name, _neighbours(root))
            raise InputError(f"--{key}: {root} {holds}; {benchmark.name} is expected as {layout}{first}{hint}")
        found.parts.extend(parts)
        found.missing[key] = _missing(benchmark, parts)
    return found


def _plain(key: str, root: Path, class_folders: Sequence[str]) -> list[Part]:
    known = set(class_folders)
    there = root.is_dir() and any(item.name in known for item in root.iterdir())
    return [Part(key, None, None, Tree(root, class_folders))] if there else []


def _corrupted(key: str, root: Path, class_folders: Sequence[str]) -> list[Part]:
    parts = []
    for corruption in BENCHMARKS[key].corruptions:
        for severity in SEVERITIES:
            places = [root / corruption / str(severity), *sorted(root.glob(f"*/{corruption}/{severity}"))]
            folder = next((place for place in places if place.is_dir() and any(place.iterdir())), None)
            if folder:
                parts.append(Part(key, corruption, severity, Tree(folder, class_folders)))
    return parts


def _missing(benchmark: Benchmark, parts: Sequence[Part]) -> list[str]:
    """What the parts lack of a benchmark; a corruption without any severity by its name alone."""
    there = {(part.corruption, part.severity) for part in parts}
    lacking = []
    for corruption in benchmark.corruptions:
        gone = [severity for severity in SEVERITIES if (corruption, severity) not in there]
        lacking += [corruption] if len(gone) == len(SEVERITIES) else [f"{corruption}/{severity}" for severity in gone]
    absent = {part: (benchmark.classes or 0) - len(part.tree.found) for part in parts}
    everywhere = len(set(absent.values())) == 1
    for part, number in list(absent.items())[: 1 if everywhere else None]:
        if number > 0:
            place = "" if everywhere else f" in {part.corruption}/{part.severity}"
            lacking.append(f"{number} of {benchmark.classes} classes{place}")
    return lacking


def _neighbours(root: Path) -> list[str]:
    return [item.name for item in root.parent.iterdir()] if root.parent.is_dir() else []


class RobustnessData(DataModule):
    """The trees one after the other, read and resized as the validation images of another data module.

    A batch has ``part``, int64 (N,), beside what :class:`ClassificationData` has in its batches, and ``texture``, int64
    (N,), see :class:`CueConflict`, -1 for other images.

    Args:
        data: Whose evaluation transform, batch size and loader processes are taken.
        parts: The trees.
    """

    def __init__(self, data: ClassificationData, parts: Sequence[Part]):
        super().__init__(val_batch_size=data.val_batch_size, workers=data.workers)
        self.classes, self.palette = data.classes, data.palette
        self.val_set = ConcatDataset(
            Transformed(part.tree, partial(_marked, transform=data.val_transform, part=number))
            for number, part in enumerate(parts)
        )

    @staticmethod
    def collate_val(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch with the part of each image."""
        added = {"part": [sample["part"] for sample in samples]}
        added["texture"] = [sample.get("texture", -1) for sample in samples]
        return {**collate_images(samples), **{name: torch.tensor(values) for name, values in added.items()}}


def _marked(sample: dict[str, Any], transform: Callable[[dict[str, Any]], dict[str, Any]], part: int) -> dict[str, Any]:
    return {**transform(sample), "part": part}
