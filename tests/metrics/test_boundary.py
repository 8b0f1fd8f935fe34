"""Boundary IoU against the authors' definition, on drawn cases."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes

from lk_downstream.errors import InputError
from lk_downstream.metrics import BoundaryIoU
from lk_downstream.metrics.boundary import boundary


def authors_band(mask, width):
    """The definition of mask_to_boundary in bowenc0221/boundary-iou-api: the mask without what erosion leaves of it,
    by ``width`` erosions with a square of side 3 after one line of zeros around the image."""
    eroded = np.pad(mask, 1)
    for _ in range(width):
        grown = np.pad(eroded, 1, constant_values=True)  # beyond its own edge, erosion takes nothing away
        parts = [grown[y : y + eroded.shape[0], x : x + eroded.shape[1]] for y in range(3) for x in range(3)]
        eroded = np.logical_and.reduce(parts)
    return mask & ~eroded[1:-1, 1:-1]


def case(seed=0, classes=4, size=(41, 60)):
    """Blobs, some of them at the edges, and holes without a label."""
    generator = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    for value in (1, 2, 1, 2, 255, 1):
        centre, radius = generator.uniform(0, size), generator.uniform(3, 12)
        label[np.hypot(y - centre[0], x - centre[1]) < radius] = value
    return torch.from_numpy(label)[None]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_band_is_the_authors(width):
    labels = case()
    found = boundary(labels.long(), width)[0].numpy()
    for value in (0, 1, 2):
        mask = labels[0].numpy() == value
        assert mask.any()
        np.testing.assert_array_equal(found & mask, authors_band(mask, width))


def measured(cases, ratio=0.02):
    metric = BoundaryIoU(["a", "b", "c", "never"], ratio)
    for truth, prediction in cases:
        metric.update(prediction, truth)
    return metric.compute()


def cases():
    return [(case(seed), case(seed + 100).where(case(seed + 100) != 255, 0)) for seed in range(3)]


def test_areas_are_summed_over_images():
    areas = np.zeros((3, 2))
    width = round(0.02 * math.hypot(41, 60))
    for truth, prediction in cases():
        ignored = truth[0].numpy() == 255
        for value in range(3):
            masks = [(labels[0].numpy() == value) & ~ignored for labels in (truth, prediction)]
            one, two = (authors_band(mask, width) for mask in masks)
            areas[value] += (one & two).sum(), (one | two).sum()
    found = measured(cases())
    assert found["BoundaryIoU"][:3].tolist() == pytest.approx((areas[:, 0] / areas[:, 1]).tolist(), rel=1e-12)
    assert math.isnan(found["BoundaryIoU"][3])
    assert found["mBoundaryIoU"].item() == pytest.approx((areas[:, 0] / areas[:, 1]).mean())


def test_by_hand():
    """A square of side 6 in a large image, and the same moved by 1: bands of width 1 meet in two corners of 10 ..."""
    truth, prediction = torch.zeros(1, 40, 40, dtype=torch.uint8), torch.zeros(1, 40, 40, dtype=torch.uint8)
    truth[:, 10:16, 10:16], prediction[:, 10:16, 11:17] = 1, 1
    found = measured([(truth, prediction)], ratio=0.01)["BoundaryIoU"][1].item()
    # Bands have 20 pixels each; in common are 5 of the upper and 5 of the lower side.
    assert found == 10 / (20 + 20 - 10)
    truth[:] = prediction
    assert measured([(truth, prediction)])["mBoundaryIoU"] == 1


def _share(rank, folder):
    dist.init_process_group("gloo")
    torch.save(measured(cases()[rank::2])["BoundaryIoU"], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path):
    in_two_processes(_share, tmp_path)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, measured(cases())["BoundaryIoU"], rtol=0, atol=0, equal_nan=True)


def test_a_wrong_ratio():
    with pytest.raises(InputError, match="above 0 and at most 1"):
        BoundaryIoU(["a"], 0)
