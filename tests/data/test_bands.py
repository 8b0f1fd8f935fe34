"""Images of other than three channels, from the file to the network."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream import create_classifier
from lk_downstream.cli import main
from lk_downstream.data import ClassFolder, ClassificationData, Coco, DetectionData, Mix, SegmentationFolder
from lk_downstream.data.reading import load_image
from lk_downstream.errors import DamagedFile, InputError
from lk_downstream.tasks import Classification

CONFIG = str(Path(__file__).parents[2] / "configs" / "upernet_convnext_atto_folder.yaml")
RNG = np.random.default_rng(0)


def pixels(bands, size=(6, 8)):
    return RNG.integers(0, 256, (*size, bands), dtype=np.uint8)


def write(path, values, mode=None, **options):
    """An image, or a TIFF file with a page for each band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "pages":
        first, *rest = (Image.fromarray(values[..., band]) for band in range(values.shape[2]))
        first.save(path, save_all=True, append_images=rest)
    else:
        Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "bands", "mode"),
    [("a.png", 4, None), ("a.tif", 4, None), ("a.tif", 6, "pages"), ("a.tif", 4, "pages"), ("a.png", 2, None)],
)
def test_bands_are_those_of_the_file(tmp_path, name, bands, mode):
    values = pixels(bands)
    if bands == 4:
        values[..., 3] = RNG.integers(0, 2, (6, 8)) * 255  # what is transparent keeps its colours
    found = load_image(write(tmp_path / name, values, mode), channels=bands)
    assert found.dtype == torch.uint8
    assert (found.permute(1, 2, 0).numpy() == values).all()


def test_what_does_not_have_them_is_named(tmp_path):
    for name, values, words in (
        ("a.png", pixels(3), r"a\.png has 3 channels \(RGB\), but model\.backbone\.in_chans is 4: set it to that"),
        ("b.tif", pixels(5), r"b\.tif has 1 channels \(L, 5 pages\), but .* is 4"),
        ("c.png", np.zeros((4, 4), np.uint16), r"c\.png has 1 channels \(I;16\), but .* is 4"),
    ):
        path = write(tmp_path / name, values, "pages" if values.ndim == 3 and values.shape[2] == 5 else None)
        with pytest.raises(InputError, match=words):
            load_image(path, channels=4)
    path = write(tmp_path / "d.png", pixels(4))
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DamagedFile, match=r"d\.png is truncated or damaged"):
        load_image(path, channels=4)
    data = DetectionData(partial(Coco, root=str(tmp_path)))
    with pytest.raises(InputError, match="in_chans is 4, but images of detections are RGB: set it to 3 or 1"):
        data.use_channels(4)


DEEP = {
    "pixels": ("uint16", 13, {}),
    "packed": ("uint16", 13, {"compression": "zlib", "predictor": True}),
    "tiles": ("int16", 6, {"tile": (16, 16), "bigtiff": True}),
    "planes": ("uint16", 5, {"planarconfig": "separate"}),
    "pages": ("uint16", 7, {"photometric": "minisblack"}),
    "of 8 bits": ("uint8", 9, {}),
    "of 32 bits": ("float32", 4, {"byteorder": ">"}),
    "what Pillow would cut": ("uint16", 4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "colours": ("uint16", 3, {"photometric": "rgb"}),
}


@pytest.mark.parametrize("form", DEEP)
def test_many_bands_of_many_bits(tmp_path, form):
    tifffile = pytest.importorskip("tifffile")
    kind, bands, options = DEEP[form]
    values = RNG.uniform(0, 255 if kind == "uint8" else 12000, (20, 24, bands)).astype(kind)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(
        path, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as file:
        planes = form in ("planes", "pages")
        stored = np.moveaxis(values, 2, 0) if planes else values
        file.write(
            stored,
            **{
                "photometric": "minisblack",
                "metadata": None,
                **({} if planes else {"planarconfig": "contig"}),
                **options,
            },
        )
        file.write(np.zeros((10, 12, bands), kind), photometric="minisblack", planarconfig="contig", subfiletype=1)
    expected = values
    if kind != "uint8":
        expected = (values.astype(np.float64) / 10000 * 255).round().clip(0, 255).astype(np.uint8)
        if form != "colours":
            with pytest.raises(
                InputError, match=rf"a\.tif has more than 8 bits per channel \({kind}.*set data\.value_range"
            ):
                load_image(path, channels=bands)
    found = load_image(path, channels=bands, value_range=(0, 10000)).permute(1, 2, 0).numpy()
    assert found.shape == expected.shape
    assert (np.abs(found.astype(int) - expected) <= (values.dtype == np.float32)).all()
    with pytest.raises(
        InputError,
        match=rf"a\.tif has {1 if form == 'pages' else bands} channels .*, but model\.backbone\.in_chans is 2",
    ):
        load_image(path, channels=2, value_range=(0, 10000))


def test_grey_images_of_many_bits(tmp_path):
    values = RNG.integers(0, 5000, (20, 24)).astype(np.uint16)
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        Image.fromarray(values).save(path)
        with pytest.raises(InputError, match=r"more than 8 bits per channel .*, values from .* set data\.value_range"):
            load_image(path)
        expected = ((values - 1000.0) / 3000 * 255).round().clip(0, 255)
        assert (load_image(path, value_range=(1000, 4000)).numpy() == expected).all()
    write(tmp_path / "b.png", pixels(4))  # others are as ever
    assert torch.equal(load_image(tmp_path / "b.png", value_range=(1, 2)), load_image(tmp_path / "b.png"))


def test_deep_files_that_cannot_be_read(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        RNG.integers(0, 9999, (16, 16, 6)).astype(np.uint16),
        photometric="minisblack",
        planarconfig="contig",
        compression="zlib",
    )
    good, said, generator = path.read_bytes(), [], np.random.default_rng(0)
    for number in range(150):
        bad = bytearray(good[: generator.integers(8, len(good))] if number % 3 == 0 else good)
        for place in generator.integers(0, min(len(bad), 400), 4):
            bad[place] = generator.integers(0, 256)
        try:
            assert load_image("b.tif", data=bytes(bad), channels=6, value_range=(0, 9999)).dtype == torch.uint8
        except InputError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(sentence.startswith("b.tif") for sentence in said)
    monkeypatch.setenv("LK_MAX_PIXELS", "1000")
    with pytest.raises(InputError, match=r"a\.tif is too large \(96 x 16 pixels, the limit is 1000\)"):
        load_image(path, channels=6, value_range=(0, 1))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr(
        tifffile.TiffPage,
        "asarray",
        lambda self: exec("raise ValueError(\"<LZW: 5> requires the 'imagecodecs' package\")"),
    )
    with pytest.raises(InputError, match=r"a\.tif is packed in a way that .*: pip install imagecodecs"):
        load_image(path, channels=6, value_range=(0, 1))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(InputError, match=r"a\.tif has more bands or bits than Pillow reads; .* pip install 'lk_down"):
        load_image(path, channels=6)


def test_classification(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / split / name / f"{split}.tif", pixels(5, (40, 50)), "pages")
    data = ClassificationData(partial(ClassFolder, root=str(tmp_path)), 2, size=32, workers=0, predict=str(tmp_path))
    data.use_channels(5)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))  # by the recipe's augmentation of colours, which is left out
    task = Classification(create_classifier("test_slak", num_classes=2, in_chans=5), ("a", "b")).eval()
    assert task.logits(batch["image"]).shape == (2, 2)
    assert next(iter(data.predict_dataloader()))["image"].shape == (4, 5, 32, 32)
    with pytest.raises(InputError, match=r"data\.value_range is \[5, 5\]: give two numbers"):
        ClassificationData(partial(ClassFolder, root=str(tmp_path)), value_range=(5, 5))
    rgb, bands = pixels(3, (40, 50)), pixels(5, (40, 50))
    bands[..., 2:] = rgb
    resized = [data.val_transform({"image": torch.from_numpy(part).permute(2, 0, 1)})["image"] for part in (rgb, bands)]
    assert torch.equal(resized[1][2:], resized[0])  # each band as in an image of Pillow


def test_a_data_module_reads_the_range(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            path = tmp_path / split / name / f"{split}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((40, 50), 3000, np.uint16)).save(path)
    plain = {"size": 32, "workers": 0, "auto_augment": None, "color_jitter": 0.0}
    make = partial(ClassificationData, partial(ClassFolder, root=str(tmp_path)), 2, **plain)
    data = make(predict=str(tmp_path), value_range=(2000, 4000), mix=Mix([partial(ClassFolder, root=str(tmp_path))]))
    data.setup("fit")
    loaders = {4: (data.train_dataloader(), data.predict_dataloader()), 2: (data.val_dataloader(),)}
    for count, loader in ((count, loader) for count, own in loaders.items() for loader in own):
        assert sum((batch["image"] == 128).all((1, 2, 3)).sum().item() for batch in loader) == count
    with pytest.raises(InputError, match=r"values from 3000 to 3000.: set data\.value_range"):
        make().val_data[0]


def test_a_segmentation_from_the_command_line(tmp_path, monkeypatch, without_plots):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for number in range(2):
            write(tmp_path / f"images/{split}/{number}.png", pixels(4, (40, 48)))
            write(tmp_path / f"annotations/{split}/{number}.png", RNG.integers(0, 2, (40, 48), dtype=np.uint8))
    words = [
        *("--config", CONFIG, "--data.dataset.root", str(tmp_path), "--data.dataset.classes", "[a, b]"),
        *("--model.backbone.name", "test_convnext", "--model.backbone.in_chans", "4", "--trainer.callbacks", "null"),
        *("--data.batch_size", "2", "--data.crop_size", "32", "--data.scale", "[48, 40]", "--data.workers", "0"),
        *("--trainer.accelerator", "cpu", "--data.repeat", "1"),
        *("--data.value_range", "[0, 10000]"),
    ]
    fit = main("fit", [*words, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1"])
    assert fit.model.backbone.body.stem[0].weight.shape[1] == 4
    assert fit.datamodule.train_set[0]["image"].shape == (4, 32, 32)
    assert fit.datamodule.val_set.value_range == (0, 10000)
    checkpoint = str(next(tmp_path.glob("runs/*/run_0/checkpoints/last.ckpt")))
    main("predict", [*words, "--ckpt_path", checkpoint, "--data.predict", "images/val"])
    assert len(list(tmp_path.glob("runs/*/prediction_0/overlays/*.png"))) == 2
    assert SegmentationFolder("val", str(tmp_path), classes=["a", "b"])[0]["image"].shape[0] == 3  # of others
