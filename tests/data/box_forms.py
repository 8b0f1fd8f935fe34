"""A data set in COCO's layout, written in the forms that annotation tools write."""

import json
import shutil
from pathlib import Path

import numpy as np

from lk_downstream.data import Voc, Yolo


def content_of(root, split):
    return json.loads((root / f"annotations/instances_{split}2017.json").read_text(encoding="utf-8"))


def rewritten(root, target, change):
    """A copy of the data set with its annotation files changed."""
    shutil.copytree(root, target)
    for split in ("train", "val"):
        content = content_of(root, split)
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        change(content, sizes)
        (target / f"annotations/instances_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def in_boxes(form):
    def change(content, sizes):
        for row in content["annotations"]:
            (x, y, w, h), (width, height) = row["bbox"], sizes[row["image_id"]]
            scale = np.array([width, height] * 2 if form.startswith("relative") else [1, 1, 1, 1])
            plain = {"xywh": [x, y, w, h], "xyxy": [x, y, x + w, y + h], "cxcywh": [x + w / 2, y + h / 2, w, h]}
            row["bbox"] = (np.array(plain[form.removeprefix("relative_")]) / scale).tolist()

    return change


def with_odd_names(content, sizes):
    """As Label Studio on Windows writes them."""
    for image in content["images"]:
        image["file_name"] = f"..\\..\\media\\upload\\1\\{image['file_name']}"


def with_a_root(content, sizes):
    """As Roboflow writes them: the category 0 stands for all others, and shares its name with one of them."""
    for kind in content["categories"]:
        kind["supercategory"] = content["categories"][0]["name"]
    content["categories"].insert(0, {"id": 0, "name": content["categories"][0]["name"], "supercategory": "none"})


def with_strays(content, sizes):
    """With annotations of a category and of an image that are not listed."""
    row = content["annotations"][0]
    content["annotations"] += [{**row, "id": 9001, "category_id": 77}, {**row, "id": 9002, "image_id": 10**6}]


def as_cvat(content, sizes):
    """As CVAT writes them: ids counted from 1, a licence, attributes, outlines that are empty or the box's corners."""
    content["licenses"], content["info"] = [{"name": "", "id": 0, "url": ""}], {"contributor": "", "date_created": ""}
    numbers = {image["id"]: number for number, image in enumerate(content["images"], 1)}
    for image in content["images"]:
        image.update(id=numbers[image["id"]], license=0, flickr_url="", coco_url="", date_captured=0)
    for number, row in enumerate(content["annotations"], 1):
        x, y, w, h = row["bbox"]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]] if number % 2 else []
        row.update(id=number, image_id=numbers[row["image_id"]], segmentation=corners, area=w * h)
        row["attributes"] = {"occluded": False, "rotation": 0.0}


def as_yolo(root, target, polygons=False):
    names = {kind["id"]: kind["name"] for kind in content_of(root, "train")["categories"]}
    for split in ("train", "val"):
        content = content_of(root, split)
        shutil.copytree(root / f"{split}2017", target / split / "images")
        (target / split / "labels").mkdir()
        for image in content["images"]:
            size = np.array([image["width"], image["height"]])
            lines = []
            for row in content["annotations"]:
                if row["image_id"] != image["id"]:
                    continue
                x, y, w, h = row["bbox"]
                if polygons:
                    values = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]) / size
                else:
                    values = np.array([[x + w / 2, y + h / 2], [w, h]]) / size
                lines.append(" ".join(map(repr, [row["category_id"], *values.ravel().tolist()])))
            if lines:
                name = Path(image["file_name"]).with_suffix(".txt")
                (target / split / "labels" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    # As Roboflow writes it, whose places begin one folder too high.
    text = "train: ../train/images\nval: ../val/images\nnames:\n" + "".join(f"  {k}: {v}\n" for k, v in names.items())
    (target / "data.yaml").write_text(text, encoding="utf-8")
    return target


def as_voc(root, target, challenge):
    names = {kind["id"]: kind["name"] for kind in content_of(root, "train")["categories"]}
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (target / folder).mkdir(parents=True)
    source = "<source><database>The VOC2007 Database</database></source>" if challenge else ""
    for split in ("train", "val"):
        content = content_of(root, split)
        stems = []
        for image in content["images"]:
            stem = Path(image["file_name"]).stem
            stems.append(stem)
            shutil.copy(root / f"{split}2017" / image["file_name"], target / "JPEGImages")
            objects = ""
            for row in content["annotations"]:
                if row["image_id"] == image["id"]:
                    x, y, w, h = row["bbox"]
                    bounds = zip(("xmin", "ymin", "xmax", "ymax"), (x + challenge, y + challenge, x + w, y + h))
                    box = "".join(f"<{key}>{value}</{key}>" for key, value in bounds)
                    objects += f"<object><name>{names[row['category_id']]}</name><bndbox>{box}</bndbox></object>"
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
            text = f"<annotation>{source}{size}{objects}</annotation>"
            (target / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        (target / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems), encoding="utf-8")
    (target / "classes.txt").write_text("\n".join(names.values()), encoding="utf-8")
    return target


FORMS = {
    **{
        form: lambda root, target, form=form: (rewritten(root, target, in_boxes(form)), {"box_format": form})
        for form in ("xyxy", "cxcywh", "relative_xywh", "relative_xyxy", "relative_cxcywh")
    },
    **{
        change.__name__: lambda root, target, change=change: (rewritten(root, target, change), {})
        for change in (with_odd_names, with_a_root, with_strays, as_cvat)
    },
    "yolo boxes": lambda root, target: (as_yolo(root, target), Yolo),
    "yolo polygons": lambda root, target: (as_yolo(root, target, polygons=True), Yolo),
    "zip archive": lambda root, target: (shutil.make_archive(str(target), "zip", root), {}),
    "voc": lambda root, target: (as_voc(root, target, challenge=1), Voc),
    "xml of a tool": lambda root, target: (as_voc(root, target, challenge=0), Voc),
}
