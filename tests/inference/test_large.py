"""Images of any size: the same classes as of the whole image, bounded memory, restarts, georeference, tiles."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lk_downstream import create_backbone
from lk_downstream.data.rows import FileRows, Rows, open_rows
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.inference import MultiScale, Slide, Whole
from lk_downstream.inference.large import rule_of, stream_classes
from lk_downstream.inference.model import predictor
from lk_downstream.inference.tiles import find_in_tiles, spans
from lk_downstream.tasks import Segmentation

CLASSES = ("road", "sky", "tree", "car", "house")


def smooth(height, width, seed=0, channels=3):
    """An image with large and small structures."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (height // 16 + 2, width // 16 + 2, channels), np.uint8)
    rows, columns = np.arange(height)[:, None] // 16, np.arange(width)[None] // 16
    return (small[rows, columns].astype(int) * 3 // 4 + generator.integers(0, 64, (height, width, channels))).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    head = partial(UPerHead, channels=16)
    task = Segmentation(create_backbone("test_convnext"), CLASSES, head, None, inference=Slide(64, 40, None))
    for parameter in task.head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return predictor(task.eval(), {}, torch.device("cpu"))


def network(images):
    """Logits at a quarter of the size that depend on all of a window, and on where a pixel lies in it."""
    x = images.float() / 255
    position = torch.linspace(0, 1, x.shape[-1])[None, None, None] * torch.linspace(0.5, 1, x.shape[-2])[:, None]
    x = torch.cat((x, x.mean((2, 3), keepdim=True) * position.expand(len(x), 1, -1, -1)), 1)
    return torch.nn.functional.avg_pool2d(x, 4, ceil_mode=True) * torch.arange(1, x.shape[1] + 1).view(-1, 1, 1).sin()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("crop", "stride"), [(32, 21), (32, 32), ((40, 24), (10, 5)), (200, 100)])
@pytest.mark.parametrize("size", [(100, 130), (33, 97), (20, 300), (180, 24)])
def test_the_classes_are_those_of_the_whole_image(size, crop, stride, batch):
    rule = Slide(crop, stride, None)
    image = torch.from_numpy(smooth(*size)).permute(2, 0, 1)
    expected = rule.predict(network, image[None])[0].numpy()
    parts = list(stream_classes(network, Rows(image), rule, 6, batch=batch))
    assert [first for first, _ in parts] == np.cumsum([0, *(len(rows) for _, rows in parts)])[:-1].tolist()
    found = np.concatenate([rows for _, rows in parts])
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) > 1
    for first, _ in parts[1:]:  # as if it had been killed there
        rest = np.concatenate(
            [rows for _, rows in stream_classes(network, Rows(image), rule, 6, batch=batch, begin=first)]
        )
        np.testing.assert_array_equal(rest, expected[first:])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_rows_of_files_are_those_of_the_whole_file(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {"compression": "tiff_lzw"} if suffix == "tif" else {}
    Image.fromarray(smooth(333, 200)).save(path, **options)
    expected = np.asarray(Image.open(path).convert("RGB"))
    rows = open_rows(path)
    assert type(rows) is FileRows
    assert rows.size == (333, 200)
    for first, last in ((0, 50), (20, 90), (90, 91), (150, 280), (279, 333)):
        np.testing.assert_array_equal(rows.read(first, last).permute(1, 2, 0), expected[first:last])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_modes_of_files(tmp_path, mode):
    path = tmp_path / "x.tif"
    image = Image.fromarray(smooth(40, 50)).convert(mode)
    image.save(path)
    found = open_rows(path).read(0, 40).permute(1, 2, 0).numpy().astype(int)
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    if mode != "CMYK":  # which libvips turns by a colour profile
        np.testing.assert_array_equal(found, expected)


def test_files_that_cannot_be_read_row_by_row(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(40, 50)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("I;16", (40, 50)).save(tmp_path / "deep.png")
    Image.fromarray(smooth(40, 50)).save(tmp_path / "x.bmp")
    (tmp_path / "text.png").write_bytes(b"no image at all, but a text")
    data = (tmp_path / "turned.jpg").read_bytes()
    for name, message in (
        ("turned.jpg", "is to be turned"),
        ("deep.png", "more than 8 bits"),
        ("text.png", "none of PNG"),
    ):
        with pytest.raises(InputError, match=message):
            open_rows(tmp_path / name)
    assert type(open_rows(tmp_path / "x.bmp")) is Rows
    with pytest.raises(InputError, match="has 3 channels"):
        FileRows(_plain(tmp_path), 4)
    Image.fromarray(smooth(400, 500)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    with pytest.raises(InputError, match="truncated or damaged"):
        open_rows(tmp_path / "cut.png").read(0, 400)
    assert data


def _plain(folder):
    Image.fromarray(smooth(40, 50)).save(folder / "plain.png")
    return folder / "plain.png"


def test_a_mask_is_written_in_tiles(model, tmp_path):
    image = smooth(350, 300)
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0, 0, 0, 4.5e5, 5.2e6, 0), True)]
    tags += [(34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True)]
    tifffile.imwrite(tmp_path / "x.tif", image, tile=(256, 256), extratags=tags, photometric="rgb")
    told = []
    rule = Slide(128, 100, None)
    path = model.write_mask(
        tmp_path / "x.tif", tmp_path / "mask.tif", 128, 28, lambda done, total: told.append((done, total))
    )
    whole = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = rule.predict(model.network.head_logits, whole)[0].numpy()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.is_tiled
        assert page.compression.name == "ADOBE_DEFLATE"
        np.testing.assert_array_equal(page.asarray(), expected)
        for code, _, _, value, _ in tags:
            assert tuple(page.tags[code].value) == value
        colours = np.asarray(page.colormap).T // 257
    assert colours[: len(CLASSES)].tolist() == [list(colour) for colour in model.palette]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)  # by other readers, too
    assert [path.name for path in tmp_path.iterdir() if "parts" in path.name] == []
    assert told == [*((row, 350) for row in (100, 200, 222)), (350, 350)]
    result = model.predict(tmp_path / "x.tif", tile=128, overlap=28)
    np.testing.assert_array_equal(result.mask, expected)
    np.testing.assert_array_equal(model.predict(image, tile=128, overlap=28).mask, expected)
    own = model.network.inference.predict(model.network.head_logits, whole)[0].numpy()
    np.testing.assert_array_equal(model.predict(image, overlap=24).mask, own)  # the windows of the task's own rule
    assert (own != expected).any()


def test_a_killed_mask_goes_on(model, tmp_path, monkeypatch):
    Image.fromarray(smooth(300, 80)).save(tmp_path / "x.png")
    expected = np.asarray(Image.open(model.write_mask(tmp_path / "x.png", tmp_path / "whole.tif")))

    class Killed(Exception):
        pass

    def kill_after(rows):
        def progress(done, total):
            if done >= rows:
                raise Killed

        return progress

    for rows in (1, 120):
        with pytest.raises(Killed):
            model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=kill_after(rows))
        assert not (tmp_path / "mask.tif").exists()
    begun = []
    path = model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=lambda done, total: begun.append(done))
    assert begun[0] > 120  # not from the start
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    with pytest.raises(Killed):
        model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=kill_after(120))
    last = sorted((tmp_path / "mask.tif.parts").glob("*.z"))[-1]
    last.write_bytes(last.read_bytes()[:10])  # a damaged part, and another image
    begun.clear()
    model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=lambda done, total: begun.append(done))
    assert begun[0] == int(last.stem) + 40
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)
    with pytest.raises(Killed):
        model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=kill_after(120))
    Image.fromarray(smooth(300, 80, seed=1)).save(tmp_path / "x.png")
    begun.clear()
    model.write_mask(tmp_path / "x.png", tmp_path / "mask.tif", progress=lambda done, total: begun.append(done))
    assert begun[0] == 40


MEASURE = """
import resource, sys, torch
from pathlib import Path
from lk_downstream.data.rows import open_rows
from lk_downstream.inference.rules import Slide
from lk_downstream.inference.large import stream_classes
def network(images):
    return torch.nn.functional.avg_pool2d(images.float(), 4, ceil_mode=True).repeat(1, 5, 1, 1)
rows = open_rows(Path(sys.argv[1]))
unit = 1 if sys.platform == "darwin" else 1024
began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
for first, mask in stream_classes(network, rows, Slide(256, 200, None), 15):
    pass
print(first + len(mask), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - began)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource")
def test_memory_does_not_grow_with_the_image(tmp_path):
    """Whole, the image has 36 MB, its class map 12 MB, and its logits 720 MB."""
    tifffile.imwrite(
        tmp_path / "x.tif", np.broadcast_to(np.uint8(7), (4000, 3000, 3)), compression="zlib", rowsperstrip=64
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x.tif")], capture_output=True, encoding="utf-8", check=True
    )
    rows, grown = map(int, done.stdout.split())
    assert rows == 4000
    assert grown < 48e6


def test_the_windows_of_a_task():
    def windows(inference, *args):
        rule = rule_of(type("Task", (), {"inference": inference, "head_logits": None})(), *args)
        assert rule.scale is None
        return rule.crop, rule.stride

    assert windows(Slide(512, 341), None, None) == ((512, 512), (341, 341))
    assert windows(MultiScale(Slide((64, 32), 20)), None, None) == ((64, 32), (20, 20))
    assert windows(Whole(), None, None) == ((1024, 1024), (682, 682))
    assert windows(Whole(), 600, 100) == ((600, 600), (500, 500))
    assert windows(Slide(512), 600, None) == ((600, 600), (400, 400))
    assert windows(Slide(512), None, 12) == ((512, 512), (500, 500))
    for pair in ((0, None), (64, 64), (64, -1), (64, 65)):
        with pytest.raises(InputError, match="overlap by less than a side"):
            windows(Whole(), *pair)
    with pytest.raises(InputError, match="tiles need a checkpoint"):
        rule_of(object(), None, None)


def squares(tiles):
    """Finds bright squares: the box of what is above 200, for each of the three channels."""
    results = []
    for tile in tiles:
        boxes, labels = [], []
        for label, channel in enumerate(tile):
            bright = (channel > 200).numpy()
            for mark in np.unique(channel[bright].numpy()):
                rows, columns = np.nonzero(channel.numpy() == mark)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        found = np.array(boxes, np.float32).reshape(-1, 4)
        scores = 0.5 + np.prod(found[:, 2:] - found[:, :2], 1) / 1e5
        results.append({"boxes": found, "labels": np.array(labels, np.int64), "scores": scores.astype(np.float32)})
    return results


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("tile", "overlap"), [(100, 40), (64, 32), (1000, 0)])
def test_each_object_is_found_once(tile, overlap, batch):
    image = torch.zeros(3, 330, 410, dtype=torch.uint8)
    generator, truth = np.random.default_rng(3), set()
    for number in range(54):
        top, left = 36 * (number // 9) + generator.integers(0, 12), 45 * (number % 9) + generator.integers(0, 20)
        side, label = generator.integers(6, 22), number % 3
        image[label, top : top + side, left : left + side] = 201 + number
        truth.add((label, left, top, left + side, top + side))
    told = []
    found = find_in_tiles(squares, Rows(image), tile, overlap, batch, lambda *rows: told.append(rows))
    boxes = {(label, *map(int, box)) for label, box in zip(found["labels"].tolist(), found["boxes"].tolist())}
    assert boxes == truth
    assert len(found["scores"]) == len(truth)
    assert (np.diff(found["scores"]) <= 0).all()
    assert told[-1] == (330, 330)


def test_tiles_cover_a_side():
    for length in range(1, 60):
        for tile, overlap in ((1, 0), (7, 3), (10, 9), (64, 5)):
            found = spans(length, tile, overlap)
            assert set().union(*(range(*span) for span in found)) == set(range(length))
            assert all(b - a == min(tile, length) for a, b in found)
            assert len(set(found)) == len(found)
