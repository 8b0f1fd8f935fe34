"""Merging of detections over scales and mirror images."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from lk_downstream import create_backbone
from lk_downstream.detectors import MaskRCNN, models, to_original
from lk_downstream.errors import InputError
from lk_downstream.inference import MultiScaleBoxes
from lk_downstream.tasks import Detection


def bright(images, sizes, original_sizes):
    """A detector that finds the bright rectangle of each image, with a mask, surer of it in larger images."""
    results = []
    for image, size, original in zip(images, sizes.tolist(), original_sizes):
        assert not image[:, size[0] :].any()
        assert not image[:, :, size[1] :].any()
        rows, columns = (image[0, : size[0], : size[1]] > 128).nonzero().unbind(1)
        box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
        found = {"boxes": box, "scores": torch.tensor([size[0] / 1000]), "labels": torch.tensor([0])}
        found["masks"] = torch.ones(1, 28, 28)
        scale = size[1] / original[1].item(), size[0] / original[0].item()
        results.append(to_original(found, tuple(original.tolist()), scale))
    return results


def two_images():
    images, originals = torch.zeros(2, 3, 64, 96, dtype=torch.uint8), [torch.tensor([100, 160]), torch.tensor([64, 64])]
    images[0, :, 10:20, 8:32] = 255  # of 50 x 80, twice as large in the original
    images[1, :, 40:56, 20:40] = 255  # of 64 x 64, as it is
    return images, torch.tensor([[50, 80], [64, 64]]), originals


def test_copies_find_the_same_object_which_is_kept_once():
    seen = []

    def find(images, sizes, original_sizes):
        seen.append((tuple(images.shape[-2:]), sizes.tolist()))
        return bright(images, sizes, original_sizes)

    found = MultiScaleBoxes(ratios=(0.5, 1.0, 1.5))(find, *two_images())
    assert seen[0] == ((32, 64), [[25, 40], [32, 32]])
    assert seen[0] == seen[1]
    assert len(seen) == 6
    for detection, box in zip(found, ([16.0, 20, 64, 40], [20.0, 40, 40, 56])):
        assert len(detection["scores"]) == 1
        torch.testing.assert_close(detection["boxes"][0], torch.tensor(box), atol=2.0, rtol=0)
        rows, columns = detection["masks"][0].nonzero().unbind(1)
        inside = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
        torch.testing.assert_close(inside, torch.tensor(box), atol=2.0, rtol=0)
    assert found[0]["scores"].item() == pytest.approx(0.075)


@pytest.mark.parametrize(("overlap", "number"), [(0.5, 1), (1.0, 4)])
def test_what_overlaps_less_is_kept(overlap, number):
    images, sizes, originals = two_images()
    shifts = iter((0.0, 1.0, 2.0, 3.0))

    def find(images, sizes, original_sizes):
        found = bright(images, sizes, original_sizes)
        shift = next(shifts)
        return [{**detection, "boxes": detection["boxes"] + shift} for detection in found]

    found = MultiScaleBoxes(overlap=overlap)(find, images[:1], sizes[:1], originals[:1])
    assert len(found[0]["scores"]) == number
    assert found[0]["scores"].tolist() == sorted(found[0]["scores"].tolist(), reverse=True)


def test_one_copy_is_the_detector_alone_and_a_task_takes_it():
    torch.manual_seed(0)
    rpn, roi = models.MASK_RPN, models.MASK_ROI
    detector = partial(
        MaskRCNN,
        neck=replace(models.FPN_NECK, channels=8),
        rpn=replace(rpn, test=replace(rpn.test, keep=20)),
        roi=replace(
            roi,
            box=replace(roi.box, fc_channels=16),
            mask=replace(roi.mask, channels=8, convs=1),
            test=replace(roi.test, score_threshold=0.0, keep=5),
        ),
    )
    task = Detection(create_backbone("test_convnext"), detector, ("a", "b"), inference=None).eval()
    images = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8)
    arguments = (images, torch.tensor([[50, 80]]), [torch.tensor([100, 160])])
    with torch.no_grad():
        images[:, :, 50:] = images[:, :, :, 80:] = 0
        alone = task.predict(*arguments)[0]
        task.inference = MultiScaleBoxes(ratios=[1.0], flip=False, overlap=1.0)
        assert all(torch.equal(alone[name], value) for name, value in task.predict(*arguments)[0].items())
        task.inference = MultiScaleBoxes(keep=3)
        assert task.predict(*arguments)[0]["masks"].shape == (min(3, len(alone["scores"])), 100, 160)


@pytest.mark.parametrize("options", [{"ratios": []}, {"ratios": [0]}, {"overlap": 0}, {"keep": 0}])
def test_wrong_settings(options):
    with pytest.raises(InputError, match="MultiScaleBoxes"):
        MultiScaleBoxes(**options)
