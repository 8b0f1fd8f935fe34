"""What is exported gives what a task predicts, image by image, before it is written to a file."""

import math
import random

import pytest
import small_models
import torch

from lk_downstream.data.classification_transforms import EvaluationImage
from lk_downstream.data.detection_module import collate_detection
from lk_downstream.data.transforms import keep_ratio_size, resize_image
from lk_downstream.detectors import FCOS, CascadeMaskRCNN, CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet
from lk_downstream.export import Inside, network, resizing

DETECTORS = [RetinaNet, FCOS, FasterRCNN, MaskRCNN, CascadeRCNN, CascadeMaskRCNN]


def predicted(task, image):
    """Detections (without pasted masks) by the task, as its data module would show it the image."""
    height, width = image.shape[-2:]
    size = keep_ratio_size(height, width, tuple(task.preparation["scale"]))
    sample = {"image": resize_image(image, size), "target": {}, "name": ""}
    batch = collate_detection([sample])
    (found,) = task(task.normalize(batch["image"], batch["size"]), batch["size"])
    zoom = torch.tensor([size[1] / width, size[0] / height] * 2)
    return {**found, "boxes": found["boxes"] / zoom}


def same_detections(expected, outputs, image, apart=1e-3):
    """The same detections in the same order; of equal scores in any."""
    count = int(outputs["count"][image])
    assert count == len(expected["boxes"])
    assert (outputs["labels"][image, count:] == -1).all()
    assert not outputs["boxes"][image, count:].any()
    torch.testing.assert_close(outputs["scores"][image, :count], expected["scores"], rtol=0, atol=1e-4)
    distance = (outputs["boxes"][image, :count, None] - expected["boxes"]).abs().amax(-1)
    distance = distance + 1e6 * (outputs["labels"][image, :count, None] != expected["labels"])
    least, index = distance.min(1)
    assert len(set(index.tolist())) == count
    assert (least < apart).all(), least.max()
    if "masks" in expected:
        torch.testing.assert_close(outputs["masks"][image, :count], expected["masks"][index], rtol=0, atol=1e-3)
    return count


@pytest.mark.parametrize("kind", DETECTORS)
def test_detections_of_a_batch_are_those_of_each_image(kind):
    task = small_models.detection(kind).double()  # in float32 rounding chooses between candidates of nearly one score
    exported = network(task)
    counts, labels = [], set()
    with torch.no_grad():
        for batch in small_models.images(5, batch=2):
            outputs = dict(zip(exported.names, exported(batch)))
            for index, image in enumerate(batch):
                counts.append(same_detections(predicted(task, image), outputs, index))
                labels |= set(outputs["labels"][index].tolist())
    assert max(counts) > 5
    assert len(labels - {-1}) > 1


def test_candidates_by_points():
    task = small_models.detection(FCOS, rule="points")
    exported = network(task)
    with torch.no_grad():
        for batch in small_models.images(3):
            outputs = dict(zip(exported.names, exported(batch)))
            same_detections(predicted(task, batch[0]), outputs, 0)


@pytest.mark.parametrize("rule", ["whole", "slide", "as it is"])
@pytest.mark.parametrize("number", [4, 20])  # more than pass at once
def test_class_maps_are_those_of_the_task(rule, number):
    task = small_models.segmentation(rule, tuple(str(i) for i in range(number)))
    classes, logits = network(task), network(task, Inside(decide=False))
    sizes = [(1, 3, 20, 230), (1, 3, 97, 33)]
    generator = torch.Generator().manual_seed(0)
    others = [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for size in sizes]
    seen = set()
    with torch.no_grad():
        for batch in (*small_models.images(2, batch=2), *others):
            expected = task.predict(batch)
            seen |= set(expected.unique().tolist())
            got = classes(batch)
            assert got.dtype == torch.uint8
            assert got.shape == expected.shape
            assert (got != expected).float().mean() < 2e-4  # where two classes are equal to the last digits
            values = logits(batch)
            assert (values.argmax(1) == got).all()
    assert len(seen) > 1


def test_probabilities_are_those_of_the_task():
    task = small_models.classification()
    exported = network(task)
    resize = EvaluationImage(64, 0.875)
    with torch.no_grad():
        for batch in small_models.images(4):
            if max(batch.shape[-2:]) > 1.9 * min(batch.shape[-2:]):
                continue  # Pillow 13 takes columns first
            image = resize({"image": batch[0]})["image"][None]
            expected = task.logits(image).softmax(1)
            torch.testing.assert_close(exported(batch), expected, rtol=0, atol=1e-6)


def test_resizes_are_those_of_the_data_modules_to_the_bit():
    random.seed(0)
    for _ in range(25):
        height, width = random.randint(1, 400), random.randint(1, 400)
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        scale = (random.randint(20, 400), random.randint(20, 300))
        size = keep_ratio_size(height, width, scale)
        sides = resizing.keep_ratio(*resizing.sides(image), scale)
        assert size == tuple(map(int, sides))
        lengths = tuple(side + random.randint(0, 9) for side in size)
        got = resizing.bilinear(image.float(), sides, lengths)
        assert got.shape[-2:] == lengths
        assert torch.equal(got[..., : size[0], : size[1]].to(torch.uint8), resize_image(image, size))

        width = random.randint(height, 2 * height)
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        size, crop = random.choice([32, 64, 100]), random.choice([0.875, 1.0, 0.5])
        expected = EvaluationImage(size, crop)({"image": image[0]})["image"]
        got = resizing.bicubic_crop(image.float(), size, None if crop == 1 else math.floor(size / crop))[0]
        assert (got - expected).abs().max() <= 1
        assert (got != expected).float().mean() < 0.01
