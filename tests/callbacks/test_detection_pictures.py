"""What the pictures of detections show."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.callbacks import DetectionFiles, DetectionPictures
from lk_downstream.callbacks.detection_pictures import Objects, best, detection_grid, detection_picture

PALETTE, CLASSES = [(255, 0, 0), (0, 0, 255)], ("cat", "dog")


def objects(scores=(0.9, 0.5), masks=True):
    boxes = torch.tensor([[10.0, 10, 40, 30], [60, 20, 90, 50]])
    found = torch.zeros(2, 60, 100, dtype=torch.bool)
    found[0, 10:30, 10:40] = found[1, 20:50, 60:90] = True
    return Objects(boxes, torch.tensor([0, 1]), torch.tensor(scores), found if masks else None)


def share(picture, colour):
    """How much of the picture is near a colour."""
    return (np.abs(picture.astype(int) - colour).max(-1) < 40).mean()


def test_boxes_have_their_classes_colours_and_masks_shine_through():
    image = torch.full((3, 60, 100), 128, dtype=torch.uint8)
    plain = detection_picture(
        image, Objects(torch.zeros(0, 4), torch.zeros(0).long()), np.array(PALETTE) / 255, CLASSES
    )
    assert plain.shape == (480, 800, 3)
    assert share(plain, (128, 128, 128)) == 1
    boxes = detection_picture(image, objects(masks=False), np.array(PALETTE) / 255, CLASSES)
    assert 0.001 < share(boxes, (255, 0, 0)) < 0.1  # outlines and labels
    assert 0.001 < share(boxes, (0, 0, 255)) < 0.1
    masks = detection_picture(image, objects(), np.array(PALETTE) / 255, CLASSES)
    assert share(masks, (191, 64, 64)) > 0.05  # half grey, half red
    row, column = 400 * 25 // 50, 8 * 12  # within the first box
    assert masks[row, column, 0] > masks[row, column, 2]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_grid_of_pictures_of_different_sizes(number):
    pictures = [torch.randint(0, 255, (3, 60 + 9 * i, 100), dtype=torch.uint8) for i in range(number)]
    samples = [("name" * 20, picture, objects(masks=False), objects(masks=False)) for picture in pictures]
    grid = detection_grid(samples, PALETTE, CLASSES)
    assert grid.dtype == np.uint8
    assert grid.shape[1] == (792 if number == 1 else 1584)


def batch(height=60, width=100):
    """A picture of 30 x 50 as it comes from the loader: resized by 2 and padded."""
    target = {
        "boxes": torch.tensor([[20.0, 20, 80, 60], [0, 0, 9, 9]]),
        "labels": torch.tensor([0, 1]),
        "iscrowd": torch.tensor([False, True]),
        "original_size": torch.tensor([30, 50]),
    }
    image = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    image[:, :, :height, :width] = 200
    return {"image": image, "size": torch.tensor([[height, width]]), "target": [target], "name": ["a"]}


def test_what_is_kept_lies_in_pixels_of_the_original():
    found = {
        "boxes": torch.rand(9, 4),
        "labels": torch.zeros(9).long(),
        "scores": torch.arange(9, 0, -1) / 10,
        "masks": torch.zeros(9, 30, 50, dtype=torch.bool),
    }
    callback = DetectionPictures(score=0.45, most=3)
    ((name, image, truth, kept),) = callback.collect(batch(), {"prediction": [found]})
    assert name == "a"
    assert image.shape == (3, 30, 50)
    assert (image == 200).all()  # nothing of the padding
    assert truth.boxes.tolist() == [[10, 10, 40, 30]]  # no crowd
    assert len(kept.scores) == len(kept.masks) == 3
    assert len(best(found, 0.45, 99).scores) == 5
    assert best({k: v for k, v in found.items() if k != "masks"}, 0.0, 2).masks is None


@pytest.mark.parametrize("width", [100, 2000])
def test_names_at_the_right_edge_are_not_cut_off(width):
    found = Objects(torch.tensor([[0.9, 0.3, 0.98, 0.6]]) * width, torch.tensor([0]), torch.tensor([0.9]))
    image = torch.zeros(3, width * 3 // 5, width, dtype=torch.uint8)
    picture = detection_picture(image, found, np.array([[0.0, 1.0, 0.0]]), ("a long name",))
    name = (picture[..., 1] > 180).nonzero()[1] / picture.shape[1]
    assert 0.7 < name.min() < 0.87  # begins before the box, equally large in pictures of any size
    assert name.max() < 0.99


def test_files_of_predictions(tmp_path):
    callback = DetectionFiles()
    trainer = type("Trainer", (), {"log_dir": str(tmp_path), "is_global_zero": True, "world_size": 1})()
    trainer.datamodule = type("Data", (), {"palette": PALETTE, "category_ids": [3, 7]})()
    task = type("Task", (), {"classes": CLASSES, "kinds": ("bbox", "segm")})()
    callback.on_predict_start(trainer, task)
    found = objects()._asdict()
    found["masks"] = found["masks"][:, :30, :50]
    given = batch()
    given["target"][0] |= {"image_id": 12, "file_name": "a.jpg"}
    callback.on_predict_batch_end(trainer, task, [found], given, 0)
    callback.on_predict_end(trainer, task)
    rows = json.loads((tmp_path / "detections" / "a.json").read_text(encoding="utf-8"))
    assert [(row["class"], row["bbox"]) for row in rows] == [("cat", [10, 10, 30, 20]), ("dog", [60, 20, 30, 30])]
    assert rows[0]["segmentation"]["size"] == [30, 50]
    results, masks, images = (
        json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("results.bbox", "results.segm", "images")
    )
    assert [(row["image_id"], row["category_id"]) for row in results] == [(12, 3), (12, 7)]
    assert "segmentation" not in results[0]
    assert "bbox" not in masks[0]
    assert images["images"] == [{"id": 12, "file_name": "a.jpg", "height": 30, "width": 50}]
    assert [kind["id"] for kind in images["categories"]] == [3, 7]
    assert Image.open(tmp_path / "pictures" / "a.png").size == (800, 480)
