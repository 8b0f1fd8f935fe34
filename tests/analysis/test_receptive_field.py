"""The effective receptive field: against a network whose field is known, and against the authors' formula."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lk_downstream import Backbone, InputError, create_backbone, create_classifier
from lk_downstream.analysis.receptive_field import (
    area_ratios,
    noise,
    receptive_field,
    scaled,
    squared,
    stage_maps,
)
from lk_downstream.commands import run
from lk_downstream.reports.receptive_field import Drawn, draw_fields

STATISTICS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Box(nn.Module):
    """One map, at stride 1: a convolution whose weights are all alike, so that the field is its kernel."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, kernel, padding=kernel // 2, bias=False)
        nn.init.constant_(self.conv.weight, 0.25)

    def forward(self, x):
        return [self.conv(x)]


def extractor(body):
    return Backbone(body, "box", [3], [0], [2], **STATISTICS)


@pytest.mark.parametrize("side", [32, 33])
def test_a_known_field(side):
    (field,) = receptive_field("box", extractor(Box(7)), noise(2, side))
    expected = np.zeros((side, side))
    centre = side // 2
    expected[centre - 3 : centre + 4, centre - 3 : centre + 4] = 6 * 0.25  # of two outputs and three inputs
    np.testing.assert_allclose(field.gradient, expected, rtol=1e-6)
    # 1 x 1, 3 x 3, 5 x 5 and 7 x 7 hold 1, 9, 25 and 49 of 49.
    assert field.ratios == {0.2: (5 / side) ** 2, 0.3: (5 / side) ** 2, 0.5: (5 / side) ** 2, 0.99: (7 / side) ** 2}
    assert area_ratios(field.gradient, [0.1]) == {0.1: (3 / side) ** 2}
    assert (field.stride, field.images) == (1, 2)


def test_planted_a_field_beside_the_centre_has_other_ratios():
    gradient = np.zeros((32, 32))
    gradient[16, 16] = 1.0
    assert set(area_ratios(gradient).values()) == {(3 / 32) ** 2}
    assert set(area_ratios(np.roll(gradient, 5, 1)).values()) == {(11 / 32) ** 2}
    assert set(area_ratios(np.roll(gradient, 16, 1)).values()) == {1.0}  # in the first column, where no square reaches


def authors_ratio(mean, threshold):
    """analyze_erf.py, said plainly."""
    data = np.log10(mean + 1)
    data = data / np.max(data)
    height, width = data.shape
    for i in range(1, height // 2):
        part = data[height // 2 - i : height // 2 + 1 + i, width // 2 - i : width // 2 + 1 + i]
        if part.sum() / data.sum() > threshold:
            return (2 * i + 1) / height * ((2 * i + 1) / width)
    return None


@pytest.mark.parametrize("name", ["test_replknet", "test_slak", "test_convnext"])
def test_against_the_authors_formula(name, randomized):
    torch.manual_seed(0)
    model = randomized(create_backbone(name))
    images = list(noise(2, 96))
    (field,) = receptive_field(name, model, images)
    total = np.zeros((96, 96))
    for image in images:
        x = (image[None] / 255 - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)
        x.requires_grad_(True)
        out = model.body.forward_features(x) if name != "test_replknet" else model.body(x)
        centre = torch.relu(out[:, :, out.shape[2] // 2, out.shape[3] // 2]).sum()
        total += torch.relu(torch.autograd.grad(centre, x)[0]).sum((0, 1)).numpy().astype(np.float64)
    np.testing.assert_allclose(field.gradient, total / 2, rtol=1e-4, atol=1e-6 * total.max())
    assert scaled(field.gradient).max() == 1
    for threshold, ratio in field.ratios.items():
        assert ratio == pytest.approx(authors_ratio(total / 2, threshold) or 1.0)


def test_the_field_grows_from_stage_to_stage(randomized):
    fields = receptive_field("slak", randomized(create_backbone("test_slak")), noise(1, 128), stages=True)
    assert [field.stride for field in fields] == [4, 8, 16, 32]
    reach = [np.count_nonzero(field.gradient) for field in fields]
    assert reach == sorted(set(reach))
    (last,) = receptive_field("slak", create_backbone("test_slak"), noise(1, 128))
    assert last.stride == 32


def test_classifiers_too():
    hierarchical = ("test_convnext", "test_slak", "test_replknet")
    for name, strides in (*((name, [4, 8, 16, 32]) for name in hierarchical), ("convnext_isotropic_small", [16])):
        options = {"depth": 1, "dim": 8} if "isotropic" in name else {}
        maps = stage_maps(create_classifier(name, **options).eval(), torch.zeros(1, 3, 64, 64))
        assert [stride for stride, _ in maps] == strides
    dead = Box(3)
    nn.init.zeros_(dead.conv.weight)
    with pytest.raises(InputError, match="0 or not finite for every image"):
        receptive_field("dead", extractor(dead), noise(1, 16))
    with pytest.raises(InputError, match="there are no images"):
        receptive_field("box", extractor(Box(3)), [])


def test_an_image_without_a_finite_gradient_is_left_out():
    class Fails(Box):
        def forward(self, x):
            maps = super().forward(x)
            return [maps[0] * math.nan] if x[0, 0, 0, 0] > 0.5 else maps

    images = [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (51, 255)]
    (field,) = receptive_field("box", extractor(Fails(3)), images)
    assert field.images == 1
    assert field.gradient.max() == pytest.approx(1.5)


def test_images_are_resized_as_by_the_authors():
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(squared(image, 16).permute(1, 2, 0).numpy(), np.array(expected))


def test_one_scale_for_all():
    strong, weak = np.zeros((20, 20)), np.zeros((20, 20))
    strong[10, 10], weak[10, 10] = 1.0, 0.25
    figure = draw_fields([Drawn(name, 32, field, {0.5: 1.0}) for name, field in (("a", strong), ("b", weak))])
    assert figure.dtype == np.uint8
    assert figure.shape[2] == 3
    # magma at sqrt(0.25) and at 1: the brightest pixel of the right half is darker than that of the left
    import matplotlib

    half = np.array(matplotlib.colormaps["magma"](0.5)[:3]) * 255
    assert np.abs(figure.reshape(-1, 3) - half).sum(1).min() < 6


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save("a.png")
    words = ["--images", "a.png", "--size", "64", "--device", "cpu", "--output", "out/field"]
    assert run("receptive-field", ["--models", "[test_slak, test_convnext]", "--stages", "true", *words]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["field.csv", "field.json", "field.png"]
    written = json.loads((tmp_path / "out" / "field.json").read_text(encoding="utf-8"))["fields"]
    assert [(row["model"], row["stride"]) for row in written] == [
        (name, stride) for name in ("test_slak", "test_convnext") for stride in (4, 8, 16, 32)
    ]
    with (tmp_path / "out" / "field.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    halves = [row["ratios"]["0.5"] for row in written]
    assert [float(row["area at 0.5"]) for row in rows] == pytest.approx(halves, abs=1e-6)
    assert "20 %" in capsys.readouterr().out
    assert run("receptive-field", ["--models", "[slak_tny]", *words]) == 1
    assert "did you mean 'slak_tiny'" in capsys.readouterr().err
