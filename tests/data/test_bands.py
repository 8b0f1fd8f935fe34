"""Images of other than three channels, from the file to the network."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lk_downstream import create_classifier
from lk_downstream.cli import main
from lk_downstream.data import ClassFolder, ClassificationData, Coco, DetectionData, SegmentationFolder
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
        ("c.png", np.zeros((4, 4), np.uint16), r"c\.png has more than 8 bits"),
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
    rgb, bands = pixels(3, (40, 50)), pixels(5, (40, 50))
    bands[..., 2:] = rgb
    resized = [data.val_transform({"image": torch.from_numpy(part).permute(2, 0, 1)})["image"] for part in (rgb, bands)]
    assert torch.equal(resized[1][2:], resized[0])  # each band as in an image of Pillow


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
    ]
    fit = main("fit", [*words, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1"])
    assert fit.model.backbone.body.stem[0].weight.shape[1] == 4
    assert fit.datamodule.train_set[0]["image"].shape == (4, 32, 32)
    checkpoint = str(next(tmp_path.glob("runs/*/run_0/checkpoints/last.ckpt")))
    main("predict", [*words, "--ckpt_path", checkpoint, "--data.predict", "images/val"])
    assert len(list(tmp_path.glob("runs/*/prediction_0/overlays/*.png"))) == 2
    assert SegmentationFolder("val", str(tmp_path), classes=["a", "b"])[0]["image"].shape[0] == 3  # of others
