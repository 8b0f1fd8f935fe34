"""Labelled data of each task, whose labels are what a task says, most of them."""

import json

import torch
import yaml
from PIL import Image
from test_networks import predicted

from lk_downstream.data.batches import collate_evaluation
from lk_downstream.data.classification_transforms import EvaluationImage
from lk_downstream.detectors.paste import paste_masks
from lk_downstream.export import validation_data
from lk_downstream.metrics.coco import encode_masks


class Masks:
    """Of a segmentation."""

    collate_val = staticmethod(collate_evaluation)

    def __init__(self, task, images):
        self.val_set = []
        for number, batch in enumerate(images):
            with torch.no_grad():
                self.val_set.append({"image": batch[0], "mask": task.predict(batch)[0], "name": str(number)})

    def val_dataloader(self):
        return (self.collate_val([sample]) for sample in self.val_set)


def objects(task, folder, images):
    """The first objects that a detector finds, in COCO's layout."""
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(task.classes, 1):
        content["categories"].append({"id": number, "name": name})
    for number, batch in enumerate(images, 1):
        height, width = batch.shape[-2:]
        save(batch[0], folder / f"val2017/{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        found = {name: values[:10] for name, values in predicted(task, batch[0]).items()}
        outlines = [{}] * len(found["boxes"])
        if "masks" in found:
            masks = encode_masks(paste_masks(found["masks"], found["boxes"], (height, width)))
            outlines = [{"segmentation": mask} for mask in masks]
        for box, label, outline in zip(found["boxes"].tolist(), found["labels"].tolist(), outlines):
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            about = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "category_id": label + 1, **outline}
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number, **about})
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    settings = {"scale": task.preparation["scale"]}
    return from_config(task, folder, "DetectionData", "Coco", {}, settings)


def classes(task, folder, images):
    """Classes of images in a table; of every third image other ones than the task says."""
    folder.mkdir()
    resize, found, names = EvaluationImage(**task.preparation), [], []
    for number, batch in enumerate(images):
        image = batch[0] if batch.shape[2] <= batch.shape[3] else batch[0].mT  # Pillow 13: of tall ones columns first
        names.append(f"{number}.png")
        save(image, folder / names[-1])
        with torch.no_grad():
            found.append(task.probabilities(resize({"image": image})["image"][None])[0])
    found = torch.stack(found)
    labels = found > found.median(0).values if task.multilabel else found == found.amax(1, keepdim=True)
    labels[::3] = labels[::3].roll(1, 1)
    rows = [";".join(name for name, there in zip(task.classes, row) if there) for row in labels.tolist()]
    table = "\n".join(["file,label", *(",".join(pair) for pair in zip(names, rows))])
    (folder / "val.csv").write_text(table, encoding="utf-8")
    options = {"classes": list(task.classes), "separator": ";" if task.multilabel else None}
    return from_config(task, folder, "ClassificationData", "ClassTable", options, task.preparation)


def save(image, path):
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def from_config(task, folder, module, dataset, options, settings):
    """The data of a config beside the images."""
    source = {"class_path": f"lk_downstream.data.{dataset}", "init_args": {"root": str(folder), **options}}
    settings = {"dataset": source, "workers": 0, **settings}
    config = {"data": {"class_path": f"lk_downstream.data.{module}", "init_args": settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return validation_data(folder, task)
