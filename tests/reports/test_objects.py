"""What the drawings of objects show."""

import numpy as np
import pytest

from lk_downstream.reports.objects import Objects, detection_grid, draw_detections

PALETTE, CLASSES = [(255, 0, 0), (0, 0, 255)], ("cat", "dog")


def objects(scores=(0.9, 0.5), masks=True):
    boxes = np.array([[10.0, 10, 40, 30], [60, 20, 90, 50]])
    found = np.zeros((2, 60, 100), bool)
    found[0, 10:30, 10:40] = found[1, 20:50, 60:90] = True
    return Objects(boxes, np.array([0, 1]), np.array(scores), found if masks else None)


def share(image, colour):
    """How much of the image is near a colour."""
    return (np.abs(image.astype(int) - colour).max(-1) < 40).mean()


def test_boxes_have_their_classes_colours_and_masks_shine_through():
    image = np.full((60, 100, 3), 128, np.uint8)
    plain = draw_detections(image, Objects(np.zeros((0, 4)), np.zeros(0, int)), np.array(PALETTE) / 255, CLASSES)
    assert plain.shape == (480, 800, 3)
    assert share(plain, (128, 128, 128)) == 1
    boxes = draw_detections(image, objects(masks=False), np.array(PALETTE) / 255, CLASSES)
    assert 0.001 < share(boxes, (255, 0, 0)) < 0.1  # outlines and labels
    assert 0.001 < share(boxes, (0, 0, 255)) < 0.1
    masks = draw_detections(image, objects(), np.array(PALETTE) / 255, CLASSES)
    assert share(masks, (191, 64, 64)) > 0.05  # half grey, half red
    row, column = 400 * 25 // 50, 8 * 12  # within the first box
    assert masks[row, column, 0] > masks[row, column, 2]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_grid_of_images_of_different_sizes(number):
    images = [np.full((60 + 9 * i, 100, 3), 40 * i, np.uint8) for i in range(number)]
    samples = [("name" * 20, image, objects(masks=False), objects(masks=False)) for image in images]
    grid = detection_grid(samples, PALETTE, CLASSES)
    assert grid.dtype == np.uint8
    assert grid.shape[1] == (792 if number == 1 else 1584)


@pytest.mark.parametrize("width", [100, 2000])
def test_names_at_the_right_edge_are_not_cut_off(width):
    found = Objects(np.array([[0.9, 0.3, 0.98, 0.6]]) * width, np.array([0]), np.array([0.9]))
    image = np.zeros((width * 3 // 5, width, 3), np.uint8)
    drawn = draw_detections(image, found, np.array([[0.0, 1.0, 0.0]]), ("a long name",))
    name = (drawn[..., 1] > 180).nonzero()[1] / drawn.shape[1]
    assert 0.7 < name.min() < 0.87  # begins before the box, equally large in images of any size
    assert name.max() < 0.99
