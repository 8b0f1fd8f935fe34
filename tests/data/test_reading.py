import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream.data import reading
from lk_downstream.data.mask_files import read_mask
from lk_downstream.data.reading import find_images, load_image
from lk_downstream.errors import InputError


@pytest.fixture(params=["torchvision", "pillow"], autouse=True)
def decoder(request, monkeypatch):
    """With torchvision's decoders, and without, as it will be when they are gone."""
    if request.param == "pillow":
        monkeypatch.setattr(reading, "decode_jpeg", None)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.png", "RGB"), ("a.jpg", "L"), ("a.bmp", "RGB"),
                                            ("a.png", "RGBA"), ("a.png", "P"), ("a.jpg", "CMYK")])  # fmt: skip
def test_images_are_as_pillow_reads_them(tmp_path, pixels, name, mode):
    Image.fromarray(pixels).convert(mode).save(tmp_path / name)
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    image = load_image(tmp_path / name)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 24, 32)
    # torchvision converts CMYK by another formula than Pillow, grey and RGB pixels are the same
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= (2 if mode == "CMYK" else 0)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_applied(tmp_path, pixels, name):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    assert load_image(tmp_path / name).shape == (3, 32, 24)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp"])
def test_truncated_image(tmp_path, pixels, name):
    Image.fromarray(pixels).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"{name} is truncated or damaged .*download or copy it again"):
        load_image(tmp_path / name)


def test_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jpg is not an image"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"cannot read .*b\.jpg: No such file"):
        load_image(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"c\.jpg is not an image"):
        load_image(tmp_path / "c.jpg")


def test_deep_image_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="more than 8 bits per channel"):
        load_image(tmp_path / "a.png")


def test_masks_keep_their_numbers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    palette = Image.fromarray(labels).copy()
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "palette.bmp")
    for name in ("grey.png", "palette.png", "palette.bmp"):
        assert torch.equal(read_mask(tmp_path / name), torch.from_numpy(labels)), name
    Image.fromarray(labels > 100).save(tmp_path / "bits.png")
    assert torch.equal(read_mask(tmp_path / "bits.png"), torch.from_numpy((labels > 100).astype(np.uint8)))


@pytest.mark.parametrize("bits", [2, 4])
def test_masks_of_few_bits_keep_their_numbers(tmp_path, bits):
    import cv2

    highest = 2**bits - 1
    labels = np.random.default_rng(0).integers(0, highest + 1, (24, 32), dtype=np.uint8)
    _write_grey_png(tmp_path / "few.png", labels, bits)
    # the file is right: OpenCV stretches it to 0..255, as the PNG standard says for images
    assert np.array_equal(cv2.imread(str(tmp_path / "few.png"), cv2.IMREAD_GRAYSCALE), labels * (255 // highest))
    assert torch.equal(read_mask(tmp_path / "few.png"), torch.from_numpy(labels))


def _write_grey_png(path, labels, bits):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    shifts = np.arange(8 - bits, -1, -bits)
    packed = (labels.reshape(len(labels), -1, 8 // bits).astype(int) << shifts).sum(-1).astype(np.uint8)
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))


def test_masks_that_are_none(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match=r"rgb\.png is a RGB image: a mask needs one channel .*and mask_colours"):
        read_mask(tmp_path / "rgb.png")
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png is a 16-bit image with the values 300"):
        read_mask(tmp_path / "deep.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.png is truncated or damaged"):
        read_mask(tmp_path / "cut.png")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_a_lossy_mask_is_refused_whatever_its_name(tmp_path, pixels, name):
    Image.fromarray(pixels[..., 0]).save(tmp_path / name, "JPEG")
    with pytest.raises(InputError, match=rf"{name} holds a JPEG image, whatever its name says.*as PNG"):
        read_mask(tmp_path / name)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.tif", compression="jpeg")
    with pytest.raises(InputError, match=r"b\.tif holds a TIFF image"):
        read_mask(tmp_path / "b.tif")


def test_a_format_that_would_call_a_program(tmp_path):
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    for read in (load_image, read_mask):
        with pytest.raises(InputError, match=r"a\.png is not an image"):
            read(tmp_path / "a.png")


def _bomb(kind, side):
    file = io.BytesIO()
    Image.new("1" if kind != "JPEG" else "L", (side, side)).save(file, kind)
    return file.getvalue()


def test_more_pixels_than_the_default_limit(tmp_path):
    jpeg = _bomb("JPEG", 8)
    place = jpeg.index(b"\xff\xc0") + 5  # of height and width
    for number, content in enumerate((_bomb("PNG", 15_000), jpeg[:place] + 2 * b"\xea\x60" + jpeg[place + 4 :])):
        path = tmp_path / f"{number}.png"
        path.write_bytes(content)
        for read in (load_image, read_mask):
            with pytest.raises(InputError, match=r"png is too large .*cut it into tiles, or raise LK_MAX_PIXELS"):
                read(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "JPEG"])
def test_more_pixels_than_the_limit(tmp_path, kind, monkeypatch):
    path = tmp_path / "a.png"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setenv("LK_MAX_PIXELS", "100")
    path.write_bytes(_bomb(kind, 12))
    with pytest.raises(InputError, match="12 x 12 pixels, the limit is 100"):
        load_image(path)
    monkeypatch.setenv("LK_MAX_PIXELS", "1e3")
    assert load_image(path).shape == (3, 12, 12)
    monkeypatch.setenv("LK_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="LK_MAX_PIXELS is 'many': it must be a number"):
        load_image(path)


def test_more_scans_than_the_limit(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + 200 * scan + data[-2:])
    with pytest.raises(InputError, match=r"a\.jpg has 2\d\d scans"):
        load_image(tmp_path / "a.jpg")


def test_what_is_no_file(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"pipe\.png is no file but a pipe or a device"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"cannot read .*folder\.png: Is a directory"):
        read_mask(tmp_path / "folder.png")


def test_each_file_counts_once(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "a" / "deep" / f"{number}.png").touch()
    (tmp_path / "a" / "deep" / "ring").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to("a")
    (tmp_path / "one_more.png").symlink_to("a/deep/0.png")
    (tmp_path / "elsewhere.png").symlink_to(__file__)
    (tmp_path / "nowhere.png").symlink_to("nothing")
    found = sorted(os.fsdecode(path).removeprefix("./") for path in find_images(tmp_path))
    assert found == [*(f"a/deep/{number}.png" for number in range(4)), "elsewhere.png", "nowhere.png"]


def test_a_image_with_more_pixels_than_pillow_takes(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.bmp")
    for read, name in ((load_image, "a.bmp"), (read_mask, "b.bmp")):
        with pytest.raises(InputError, match=rf"{name} is too large .*cut it into tiles"):
            read(tmp_path / name)
