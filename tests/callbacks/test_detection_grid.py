"""What is kept of detections, and written."""

import json

import torch
from PIL import Image

from lk_downstream.callbacks import DetectionFiles, DetectionGrid
from lk_downstream.callbacks.detection_grid import best

PALETTE, CLASSES = [(255, 0, 0), (0, 0, 255)], ("cat", "dog")


def batch(height=60, width=100):
    """An image of 30 x 50 as it comes from the loader: resized by 2 and padded."""
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
    callback = DetectionGrid(score=0.45, most=3)
    ((name, image, truth, kept),) = callback.collect(batch(), {"prediction": [found]})
    assert name == "a"
    assert image.shape == (30, 50, 3)
    assert (image == 200).all()  # nothing of the padding
    assert truth.boxes.tolist() == [[10, 10, 40, 30]]  # no crowd
    assert len(kept.scores) == len(kept.masks) == 3
    assert len(best(found, 0.45, 99).scores) == 5
    assert best({k: v for k, v in found.items() if k != "masks"}, 0.0, 2).masks is None


def test_files_of_predictions(tmp_path):
    callback = DetectionFiles()
    trainer = type("Trainer", (), {"log_dir": str(tmp_path), "is_global_zero": True, "world_size": 1})()
    known = {"palette": PALETTE, "category_ids": [3, 7]}
    trainer.datamodule = type("Data", (), {"classes": CLASSES, "preparation": lambda self: known})()
    task = type("Task", (), {"classes": CLASSES, "kinds": ("bbox", "segm")})()
    callback.on_predict_start(trainer, task)
    boxes, scores = torch.tensor([[10.0, 10, 40, 30], [60, 20, 90, 50]]), torch.tensor([0.9, 0.5])
    found = {"boxes": boxes, "labels": torch.tensor([0, 1]), "scores": scores}
    found["masks"] = torch.ones(2, 30, 50, dtype=torch.bool)
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
    assert Image.open(tmp_path / "images" / "a.png").size == (800, 480)
