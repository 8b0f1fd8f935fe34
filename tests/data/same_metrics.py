"""One network on the same real data in every form: the same metrics, to the last digit.

``python tests/data/same_metrics.py`` converts CamVid, BCCD and hymenoptera, in a small copy, trains a small network for
some steps on each, and prints its metrics from every form.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import box_forms
import class_forms
import lightning as L
import mask_forms
import numpy as np
import torch
from PIL import Image

from lk_downstream import create_backbone, create_classifier
from lk_downstream.data import (
    ClassFolder,
    ClassificationData,
    Coco,
    DetectionData,
    SegmentationData,
    SegmentationFolder,
)
from lk_downstream.detectors import FCOS
from lk_downstream.detectors.models import FCOS_HEAD, FCOS_NECK
from lk_downstream.heads import UPerHead
from lk_downstream.inference import Whole
from lk_downstream.tasks import Classification, Detection, Segmentation

SHARED = Path(__file__).parents[3] / "shared/data"
FAST = partial(torch.optim.AdamW, lr=2e-3)
TRAINER = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
TRAINER.update(enable_model_summary=False, use_distributed_sampler=False)


def some_of(items, count):
    """So many of them at most, at equal distances."""
    return items[:: max(1, len(items) // count)][:count]


def camvid(root, count):
    """Images and label maps of each split at a quarter of their size."""
    found = {}
    for split in ("train", "val"):
        dataset = SegmentationFolder(split, str(SHARED / "camvid"))
        items = [dataset[number] for number in some_of(range(len(dataset)), count)]
        images = {item["name"]: item["image"].permute(1, 2, 0).numpy()[::4, ::4] for item in items}
        maps = {item["name"]: item["mask"].numpy()[::4, ::4] for item in items}
        found[split] = mask_forms.Samples(images, maps, list(dataset.classes))
    forms = {
        name: lambda target, write=write: partial(
            SegmentationData, write(found["val"], target), train_split="val", workers=0
        )
        for name, write in mask_forms.FORMS.items()
    }
    head = partial(UPerHead, channels=16)
    task = Segmentation(
        create_backbone("test_convnext"), found["val"].classes, head, None, Whole(scale=None), optimizer=FAST
    )
    train = mask_forms.FORMS["grey PNG"](found["train"], root / "train")
    data = SegmentationData(lambda split: train("val"), 8, 96, scale=(120, 90), workers=0, repeat=8)
    return task, data, forms


def bccd(root, count):
    """Images at a quarter of their size, with boxes of whole pixels, in COCO's layout."""
    (root / "small/annotations").mkdir(parents=True)
    for split in ("train", "val"):
        name = f"annotations/instances_{split}2017.json"
        content = json.loads((SHARED / "bccd" / name).read_text(encoding="utf-8"))
        content["images"] = some_of(content["images"], count)
        used = {image["id"] for image in content["images"]}
        rows = []
        for row in content["annotations"]:
            x, y, w, h = (value // 4 for value in row["bbox"])
            if row["image_id"] in used and min(w, h) >= 1:
                rows.append({**row, "bbox": [x, y, w, h], "area": w * h})
        content["annotations"] = rows
        (root / f"small/{split}2017").mkdir()
        for image in content["images"]:
            image.update(width=image["width"] // 4, height=image["height"] // 4)
            with Image.open(SHARED / "bccd" / f"{split}2017" / image["file_name"]) as file:
                small = file.resize((image["width"], image["height"]))
            image["file_name"] = image["file_name"].replace(".jpg", ".png")
            small.save(root / f"small/{split}2017" / image["file_name"])
        (root / "small" / name).write_text(json.dumps(content), encoding="utf-8")

    def made(target, write):
        place, other = write(root / "small", target)
        kind, options = (other, {}) if isinstance(other, type) else (Coco, other)
        return partial(
            DetectionData, partial(kind, root=str(place), **options), scale=(160, 120), workers=0, val_batch_size=4
        )

    forms = {"COCO": lambda root, target: (root, {}), **box_forms.FORMS}
    forms = {name: partial(made, write=write) for name, write in forms.items()}
    head = replace(FCOS_HEAD, convs=2, channels=32, bounds=(12.0, 24.0, 48.0, 96.0))
    detector = partial(FCOS, neck=replace(FCOS_NECK, channels=32), head=head)
    task = Detection(create_backbone("test_convnext"), detector, ("RBC", "WBC", "Platelets"), optimizer=FAST)
    small = partial(Coco, root=str(root / "small"))
    data = DetectionData(small, 8, augmentation=[], scale=(160, 120), workers=0, repeat=8)
    return task, data, forms


def hymenoptera(root, count):
    """Images at most 96 pixels wide and high, in folders of classes."""
    for split in ("train", "val"):
        for folder in sorted((SHARED / "hymenoptera" / split).iterdir()):
            (root / "small" / split / folder.name).mkdir(parents=True)
            for path in some_of(sorted(folder.iterdir()), count):
                with Image.open(path) as file:
                    file.thumbnail((96, 96))
                    file.convert("RGB").save(root / "small" / split / folder.name / f"{path.stem}.png")
    options = {"size": 64, "workers": 0}
    forms = {
        name: lambda target, write=write: partial(
            ClassificationData, write(root / "small", target), train_split="val", **options
        )
        for name, write in class_forms.FORMS.items()
    }
    task = Classification(create_classifier("test_convnext", num_classes=2), ("ants", "bees"), optimizer=FAST)
    return task, ClassificationData(partial(ClassFolder, root=str(root / "small")), 16, **options, repeat=8), forms


SETS = {"CamVid": camvid, "BCCD": bccd, "hymenoptera": hymenoptera}


def metrics(task, data, folder):
    """All that a validation gives, by name."""
    return L.Trainer(**TRAINER, default_root_dir=folder).validate(task, data(), verbose=False)[0]


def from_every_form(make, root, count, steps, only=None):
    """The metrics of one network from each form of a data set, of ``count`` images a split or a class at most."""
    torch.manual_seed(0)
    task, data, forms = make(root, count)
    if steps:
        L.Trainer(**TRAINER, max_steps=steps, limit_val_batches=0, default_root_dir=root).fit(task, data)
    names = [name for name in forms if only is None or name in only]
    return {name: metrics(task, forms[name](root / f"form{number}"), root) for number, name in enumerate(names)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    different = 0
    for name, make in SETS.items():
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found = from_every_form(make, Path(folder), options.images, options.steps)
        first = next(iter(found.values()))
        shown = [key for key in first if key.rpartition("/")[2] in SHOWN]
        print(f"\n{name:20}", *(f"{key:>22}" for key in shown))
        for form, values in found.items():
            same = same_digits(values, first)
            different += not same
            print(f"{form:20}", *(f"{values[key]:22.17g}" for key in shown), "" if same else "  differs")
        print(f"{len(found)} forms, {len(first)} metrics, {time.process_time() - start:.0f} s of processor time")
    print(f"\n{different} forms differ")
    sys.exit(different > 0)


SHOWN = ("mIoU", "aAcc", "bbox_AP", "bbox_AP50", "top1", "loss", "acc1", "accuracy")


def same_digits(one, other):
    """Whether all metrics are the same, to the last digit."""
    if one.keys() != other.keys():
        return False
    return all(np.float64(one[key]).tobytes() == np.float64(other[key]).tobytes() for key in one)


if __name__ == "__main__":
    main()
