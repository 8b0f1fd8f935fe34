import colorsys

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from lk_downstream.data.distortion import PhotoMetricDistortion, distort
from lk_downstream.data.transforms import (
    PadToSize,
    RandomResizeCrop,
    as_batch,
    crop_image,
    crop_labels,
    keep_ratio_size,
    resize_image,
    training_transform,
    window_of,
)


def sample(height=60, width=90, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, classes, (height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(torch.from_numpy(labels)), "name": "x"}


@pytest.mark.parametrize(("crop", "size"), [((40, 40), (60, 90)), ((64, 64), (60, 90)), ((48, 96), (200, 100))])
def test_training_samples(crop, size):
    torch.manual_seed(0)
    transform = training_transform(crop, scale=(200, 60), distortion=PhotoMetricDistortion())
    for _ in range(20):
        out = transform(sample(*size))
        assert out["image"].shape == (3, *crop)
        assert out["mask"].shape == crop
        assert out["image"].dtype == out["mask"].dtype == torch.uint8
        height, width = out["size"].tolist()
        assert 0 < height <= crop[0]
        assert 0 < width <= crop[1]
        for part in (out["mask"][height:], out["mask"][:, width:]):
            assert (part == 255).all()
        for part in (out["image"][:, height:], out["image"][:, :, width:]):
            assert (part == 0).all()
        assert set(out["mask"][:height, :width].unique().tolist()) <= {0, 1, 2, 3}
        assert out["name"] == "x"


def test_same_seed_same_sample():
    transform = training_transform((40, 40), scale=(200, 60), distortion=PhotoMetricDistortion())
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(transform(sample()))
    assert torch.equal(results[0]["image"], results[1]["image"])
    assert torch.equal(results[0]["mask"], results[1]["mask"])
    assert not torch.equal(results[0]["image"], results[2]["image"])


def test_input_is_not_changed():
    original, untouched = sample(), sample()
    torch.manual_seed(0)
    for _ in range(10):
        training_transform((200, 200), scale=(90, 60), ratio_range=(1, 1), distortion=PhotoMetricDistortion())(original)
    assert torch.equal(original["image"], untouched["image"])
    assert torch.equal(original["mask"], untouched["mask"])


def test_image_and_mask_stay_together():
    """An image whose grey levels are its labels: after resize, crop and flip they still are, but at the edges."""
    labels = sample(120, 180)["mask"]
    item = {"image": tv_tensors.Image((labels * 60).expand(3, -1, -1).contiguous()), "mask": labels, "name": "x"}
    transform = training_transform((100, 100), scale=(180, 120), cat_max_ratio=1)
    torch.manual_seed(0)
    for _ in range(20):
        out = transform(item)
        height, width = out["size"].tolist()
        difference = (out["image"][:, :height, :width].int() - 60 * out["mask"][:height, :width].int()).abs()
        assert (difference > 30).float().mean() < 0.12
        assert difference.float().median() == 0


def test_ratio_and_offset_ranges():
    """The ratio is uniform in its range, and the crop reaches all four sides."""
    step = RandomResizeCrop((30, 30), scale=(60, 90), cat_max_ratio=1)
    torch.manual_seed(0)
    windows = [step.make_params([sample()["image"], sample()["mask"]])["window"] for _ in range(400)]
    zooms = np.array([window.zoom[0] for window in windows])
    assert 0.49 < zooms.min() < 0.52
    assert 1.95 < zooms.max() < 2.01
    assert abs(zooms.mean() - 1.25) < 0.08
    assert min(window.rows[0] for window in windows) == min(window.columns[0] for window in windows) == 0
    assert max(sum(window.rows) for window in windows) == 60
    assert max(sum(window.columns) for window in windows) == 90


def test_largest_class_limit():
    """One corner holds other classes than the rest, so nearly every accepted crop must reach into it."""
    labels = np.zeros((200, 200), np.uint8)
    labels[:80, :80] = np.random.default_rng(0).integers(1, 5, (80, 80))
    labels[150:] = 255  # unlabelled pixels are no class
    item = [tv_tensors.Image(torch.zeros(3, 200, 200, dtype=torch.uint8)), tv_tensors.Mask(torch.from_numpy(labels))]
    accepted = {}
    for limit in (1.0, 0.75):
        step = RandomResizeCrop((80, 80), scale=(200, 200), ratio_range=(1, 1), cat_max_ratio=limit)
        torch.manual_seed(0)
        crops = [step.make_params(item)["labels"] for _ in range(150)]
        counts = [np.bincount(crop.ravel(), minlength=256)[:255] for crop in crops]
        accepted[limit] = np.mean([(count.max() / max(1, count.sum())) < 0.75 for count in counts])
    assert accepted[1.0] < 0.3
    assert accepted[0.75] > 0.8


def test_crop_of_nothing_but_unlabelled_pixels_is_taken_at_last():
    labels = torch.full((50, 50), 255, dtype=torch.uint8)
    item = {"image": tv_tensors.Image(torch.zeros(3, 50, 50, dtype=torch.uint8)), "mask": tv_tensors.Mask(labels)}
    assert (training_transform((20, 20), scale=(50, 50))(item)["mask"] == 255).all()


@pytest.mark.parametrize(
    ("size", "resized", "offset", "crop", "limit"),
    [
        ((60, 90), (91, 137), (20, 51), (48, 48), 0.51),
        ((60, 90), (30, 45), (3, 7), (20, 20), 0.001),
        ((60, 90), (37, 55), (3, 7), (20, 20), 0.51),
        ((60, 90), (60, 90), (9, 4), (30, 30), 0.001),
        ((60, 90), (25, 37), (0, 0), (48, 48), 0.001),
        ((61, 97), (122, 193), (74, 145), (48, 48), 1.0),  # the last crop must not end beyond the image
    ],
)
def test_crop_is_that_of_the_resized_image(size, resized, offset, crop, limit):
    """Resize of the window = window of the resize, up to half a pixel of the original."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    position = torch.stack([rows, columns])  # each pixel tells where it comes from
    window = window_of(size, resized, offset, crop)
    ours = crop_image(position, window)
    theirs = resize_image(position, resized)[:, offset[0] : offset[0] + crop[0], offset[1] : offset[1] + crop[1]]
    assert ours.shape == theirs.shape
    # The outermost row and column have no neighbour beyond the window.
    assert (ours - theirs).abs()[:, 1:-1, 1:-1].max() <= limit
    assert (ours - theirs).abs().max() <= 1
    labels = np.random.default_rng(0).integers(0, 9, size).astype(np.uint8)
    assert crop_labels(labels, window).shape == tuple(theirs.shape[1:])


def test_crop_of_everything_has_the_size_of_the_resized_image():
    """For every pair of sizes: a factor that rounding makes too small would lose a row."""
    for old in range(20, 60):
        image = torch.zeros(1, old, old, dtype=torch.uint8)
        for new in range(11, 111):
            window = window_of((old, old), (new, new), (0, 0), (200, 200))
            assert crop_image(image, window).shape == (1, new, new)


def test_keep_ratio_size():
    assert keep_ratio_size(512, 683, (2048, 512)) == (512, 683)
    assert keep_ratio_size(683, 512, (2048, 512)) == (683, 512)
    assert keep_ratio_size(100, 900, (2048, 512)) == (228, 2048)
    assert keep_ratio_size(1024, 2048, (2049, 1025)) == (1025, 2049)
    assert keep_ratio_size(1, 4000, (100, 100)) == (1, 100)


def test_padding_alone():
    item = sample(20, 30)
    out = PadToSize((24, 24))({"image": item["image"], "mask": item["mask"]})
    assert out["image"].shape == (3, 24, 30)
    assert out["size"].tolist() == [20, 30]
    assert isinstance(out["image"], tv_tensors.Image)
    assert isinstance(out["mask"], tv_tensors.Mask)


# ---- colours ----


@pytest.mark.parametrize("hue", [-18, -15, -7, -1, 0, 1, 14, 15, 16, 17])
@pytest.mark.parametrize("saturation", [None, 0.5, 1.5])
def test_saturation_and_hue_are_those_of_hsv(hue, saturation):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 300), dtype=np.uint8)
    pixels[:, 0] = np.random.default_rng(1).choice([0, 7, 255], (3, 300))  # ties and extremes
    ours = distort(torch.from_numpy(pixels), saturation=saturation, hue=hue).numpy().reshape(3, -1).T
    for before, after in zip(pixels.reshape(3, -1).T / 255, ours):
        h, s, v = colorsys.rgb_to_hsv(*before)
        exact = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * (saturation or 1)), v)
        assert np.abs(np.array(exact) * 255 - after).max() < 0.52


def test_strips_do_not_show():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 700), dtype=np.uint8))
    options = {"brightness": 9.0, "contrast": 1.2, "saturation": 1.3, "hue": 5}
    parts = [distort(image[:, row : row + 1], **options) for row in range(90)]
    assert torch.equal(distort(image, **options), torch.cat(parts, dim=1))


def test_draws():
    """Each step in half of the cases, amounts over the whole range."""
    step = PhotoMetricDistortion()
    torch.manual_seed(0)
    draws = [step.make_params([]) for _ in range(3000)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 17),
    ):
        values = [draw[name] for draw in draws if draw[name] is not None]
        assert abs(len(values) / 3000 - 0.5) < 0.04, name
        assert low <= min(values) < low + 0.03 * (high - low) + 0.1, name
        assert high >= max(values) > high - 0.03 * (high - low) - 0.1, name
    assert abs(np.mean([draw["contrast_last"] for draw in draws]) - 0.5) < 0.04
    assert all(isinstance(draw["hue"], int) for draw in draws if draw["hue"] is not None)


def test_masks_are_not_distorted():
    item = sample()
    torch.manual_seed(1)
    for _ in range(10):
        assert torch.equal(PhotoMetricDistortion()(item)["mask"], item["mask"])


def test_a_decoded_image_is_resized_by_the_fast_way():
    """Pixels of three bytes, as decoders give them: the result has the same bytes, in the same order of memory."""
    pixels = torch.randint(0, 256, (60, 90, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    image = pixels.permute(2, 0, 1)
    batch = as_batch(image)
    assert torch.equal(batch[0], image)
    assert batch.data_ptr() == image.data_ptr()
    resized = torch.nn.functional.interpolate(batch, (80, 70), mode="bilinear")
    assert resized.is_contiguous(memory_format=torch.channels_last)  # what PyTorch's fast kernel gives
    assert torch.equal(resized[0], resize_image(image.contiguous(), (80, 70)))
    assert torch.equal(resize_image(image, (80, 70)), resized[0])
    assert as_batch(image.contiguous()).is_contiguous()
