"""Generated scenes written in the real layouts of ADE20K, Cityscapes, ImageNet and COCO."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lk_downstream.data.classes import ADE20K_CLASSES
from lk_downstream.data.synthetic import Look, Painter, Scene, Synthetic, complete_folder, counted, street_scene

# The classes that occur, by the names of each data set; sky and ground come first.
ADE20K_LOOKS = (
    Look("sky", "square", (120, 180, 235), "plain"),
    Look("grass", "square", (150, 190, 60), "rows"),
    Look("tree", "triangle", (20, 95, 45), "dots"),
    Look("building", "square", (165, 120, 85), "checks"),
    Look("car", "bar", (205, 40, 40), "columns"),
    Look("person", "pillar", (150, 60, 175), "plain"),
    Look("signboard", "diamond", (245, 205, 40), "diagonals"),
    Look("flag", "star", (40, 60, 190), "rows"),
)
CITYSCAPES_LOOKS = (  # the first word is the name, the number its labelId
    (23, Look("sky", "square", (120, 180, 235), "plain")),
    (7, Look("road", "square", (128, 64, 128), "rows")),
    (21, Look("vegetation", "disc", (20, 95, 45), "dots")),
    (11, Look("building", "square", (165, 120, 85), "checks")),
    (26, Look("car", "bar", (205, 40, 40), "columns")),
    (24, Look("person", "pillar", (235, 125, 195), "plain")),
    (20, Look("traffic sign", "diamond", (245, 205, 40), "diagonals")),
    (28, Look("bus", "hexagon", (40, 60, 190), "rows")),
)
UNLABELLED = Look("unlabelled", "cross", (35, 35, 35), "dots")
_CITYSCAPES_UNLABELLED = 4  # labelId "static", which is not evaluated

IMAGENET_LOOKS = (  # ids of classes of ImageNet-1K
    Look("n01440764", "disc", (205, 40, 40), "rows"),
    Look("n02085620", "triangle", (20, 120, 55), "dots"),
    Look("n02123045", "star", (40, 60, 190), "columns"),
    Look("n03100240", "bar", (245, 205, 40), "checks"),
    Look("n04254680", "cross", (150, 60, 175), "plain"),
    Look("n07747607", "hexagon", (240, 130, 40), "diagonals"),
)
COCO_LOOKS = (  # real category ids, with gaps as in the original
    (1, "person", Look("person", "pillar", (150, 60, 175), "plain")),
    (3, "vehicle", Look("car", "bar", (205, 40, 40), "columns")),
    (13, "outdoor", Look("stop sign", "hexagon", (240, 130, 40), "diagonals")),
    (37, "sports", Look("sports ball", "disc", (245, 205, 40), "checks")),
    (53, "food", Look("apple", "diamond", (20, 120, 55), "dots")),
    (90, "indoor", Look("toothbrush", "star", (40, 60, 190), "rows")),
)


def write_ade20k(root: Path, options: Synthetic) -> None:
    """Write ``{images,annotations}/{training,validation}``: JPEG images, PNG masks with 0 = other and 1..150.

    Args:
        root: The folder to make; it appears only when complete.
        options: Numbers, size and seed.

    Raises:
        InputError: ``root`` exists or cannot be written.
    """
    values = np.array([*(ADE20K_CLASSES.index(look.name) + 1 for look in ADE20K_LOOKS), 0], dtype=np.uint8)
    with complete_folder(root) as folder:
        splits = ("training", "train"), ("validation", "val")
        for split, short, number, scene in _street_scenes(ADE20K_LOOKS, options, *splits):
            name = f"ADE_{short}_{number:08d}"
            _save(folder / "images" / split / f"{name}.jpg", scene.image)
            _save(folder / "annotations" / split / f"{name}.png", values[scene.labels])


def write_cityscapes(root: Path, options: Synthetic) -> None:
    """Write ``leftImg8bit`` and ``gtFine`` with city folders: PNG images, ``*_labelIds.png`` with the real ids.

    Arguments and errors as :func:`write_ade20k`.
    """
    values = np.array([*(label for label, _ in CITYSCAPES_LOOKS), _CITYSCAPES_UNLABELLED], dtype=np.uint8)
    cities = {"train": ("aachen", "bochum"), "val": ("frankfurt", "lindau")}
    looks = tuple(look for _, look in CITYSCAPES_LOOKS)
    with complete_folder(root) as folder:
        for split, _, number, scene in _street_scenes(looks, options, ("train", "train"), ("val", "val")):
            city = cities[split][number % 2]
            name = f"{city}/{city}_{number:06d}_000019"
            _save(folder / "leftImg8bit" / split / f"{name}_leftImg8bit.png", scene.image)
            _save(folder / "gtFine" / split / f"{name}_gtFine_labelIds.png", values[scene.labels])


def write_imagenet(root: Path, options: Synthetic) -> None:
    """Write ``train/<wnid>/<wnid>_<n>.JPEG`` and ``val/<wnid>/ILSVRC2012_val_<n>.JPEG``, six classes in turn.

    Arguments and errors as :func:`write_ade20k`.
    """
    with complete_folder(root) as folder:
        for split, _, number, rng in _numbers(options, ("train", "train"), ("val", "val")):
            look = number % len(IMAGENET_LOOKS)
            painter = Painter(IMAGENET_LOOKS, options.size, rng)
            painter.place(look, rng.uniform(0.28, 0.45) * min(options.size))
            wnid = IMAGENET_LOOKS[look].name
            name = f"{wnid}_{number}.JPEG" if split == "train" else f"ILSVRC2012_val_{number:08d}.JPEG"
            _save(folder / split / wnid / name, painter.finish().image)


def write_coco(root: Path, options: Synthetic) -> None:
    """Write ``{train,val}2017/<id>.jpg`` and ``annotations/instances_{train,val}2017.json``.

    Objects have polygons; every fourth image has a crowd (``iscrowd`` 1, run lengths); the category ids have gaps;
    every tenth image has no object at all.

    Arguments and errors as :func:`write_ade20k`.
    """
    categories = [{"supercategory": group, "id": number, "name": look.name} for number, group, look in COCO_LOOKS]
    with complete_folder(root) as folder:
        splits = ("train2017", "train"), ("val2017", "val")
        files = {split: {"images": [], "annotations": [], "categories": categories} for split, _ in splits}
        for split, _, number, rng in _numbers(options, *splits):
            scene, crowd = _coco_scene(options, rng, number)
            identity = number + (500_000 if split == "val2017" else 0)
            name = f"{identity:012d}.jpg"
            _save(folder / split / name, scene.image)
            height, width = options.size
            files[split]["images"].append({"id": identity, "file_name": name, "height": height, "width": width})
            found = [_instance(look, outline, mask) for look, outline, mask in scene.objects]
            annotations = files[split]["annotations"]
            for entry in [entry for entry in found if entry] + crowd:
                annotations.append({"id": len(annotations) + 1, "image_id": identity, **entry})
        (folder / "annotations").mkdir()
        for split, content in files.items():
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _numbers(options: Synthetic, *splits: tuple[str, str]) -> Iterator[tuple[str, str, int, np.random.Generator]]:
    """Folder name, short name, number from 1 and own source of chance of every image."""
    counts = {"train": options.train, "val": options.val}
    jobs = [(folder, short, number) for folder, short in splits for number in range(1, counts[short] + 1)]
    for folder, short, number in counted(jobs, len(jobs), "writing generated images"):
        # Own stream for each image: the first images do not depend on how many there are.
        yield folder, short, number, np.random.default_rng([options.seed, short == "val", number])


def _street_scenes(looks, options: Synthetic, *splits) -> Iterator[tuple[str, str, int, Scene]]:
    for folder, short, number, rng in _numbers(options, *splits):
        yield folder, short, number, street_scene(looks, options.size, rng, number, UNLABELLED)


def _coco_scene(options: Synthetic, rng: np.random.Generator, number: int) -> tuple[Scene, list[dict]]:
    """One to four objects that do not touch, and in every fourth image a crowd of small discs."""
    looks = [look for _, _, look in COCO_LOOKS]
    painter, taken = Painter(looks, options.size, rng), []
    side, crowd = min(options.size), []
    if number % 4 == 0:
        radius, centre = 0.05 * side, (0.15 * options.size[1], 0.15 * options.size[0])
        mask = np.zeros(options.size, dtype=bool)
        for column in range(3):
            mask |= painter.place(3, radius, (centre[0] + 2.4 * radius * (column - 1), centre[1]))
        painter.scene.objects.clear()
        crowd.append({"category_id": COCO_LOOKS[3][0], "iscrowd": 1, **_run_lengths(mask)})
        taken.append((*centre, 4 * radius))
    for count in range(0 if number % 10 == 0 else int(rng.integers(1, 5))):
        for _ in range(20):  # an object that finds no free place is left out
            radius = rng.uniform(0.12, 0.24) * side
            x, y = rng.uniform(radius, options.size[1] - radius), rng.uniform(radius, options.size[0] - radius)
            if all((x - a) ** 2 + (y - b) ** 2 > (radius + c) ** 2 for a, b, c in taken):
                painter.place((number + count) % len(looks), radius, (x, y))
                taken.append((x, y, radius))
                break
    return painter.finish(), crowd


def _instance(look: int, outline: np.ndarray, mask: np.ndarray) -> dict | None:
    """COCO's annotation of a polygon, clipped to the image, or None if nothing is visible."""
    if not mask.any():
        return None
    height, width = mask.shape
    points = outline.clip([0, 0], [width, height]).round(2)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    x, y = points.T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return {
        "category_id": COCO_LOOKS[look][0],
        "iscrowd": 0,
        "segmentation": [points.ravel().tolist()],
        "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
        "area": round(area, 2),
    }


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's annotation of a crowd: uncompressed run lengths in column order, beginning with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "segmentation": {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)},
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": int(mask.sum()),
    }


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix == ".png" else {"quality": 92, "subsampling": 0, "format": "JPEG"}
    Image.fromarray(pixels).save(path, **options)
