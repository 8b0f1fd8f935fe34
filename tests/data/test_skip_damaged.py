"""Training that goes on without damaged files, and says so."""

import pickle
from functools import partial
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lk_downstream.cli import main
from lk_downstream.data import (
    ADE20K,
    ClassificationData,
    Coco,
    DetectionData,
    ImageNet,
    SegmentationData,
    Synthetic,
)
from lk_downstream.data.batches import collate
from lk_downstream.data.left_out import Drawn, WithLeftOut
from lk_downstream.errors import DamagedFile, InputError

CONFIGS = Path(__file__).parents[2] / "configs"
SYNTHETIC = Synthetic(train=12, val=6, size=(48, 64))
KINDS = {
    "segmentation": lambda root: SegmentationData(
        partial(ADE20K, root=root),
        4,
        crop_size=32,
        scale=(64, 48),
        workers=2,
        synthetic=SYNTHETIC,
        seed=0,
        skip_damaged=True,
    ),
    "classification": lambda root: ClassificationData(
        partial(ImageNet, root=root, complete=False),
        4,
        size=32,
        workers=2,
        synthetic=SYNTHETIC,
        seed=0,
        skip_damaged=True,
    ),
    "detection": lambda root: DetectionData(
        partial(Coco, root=root),
        4,
        scale=(64, 64),
        augmentation=[],
        workers=2,
        synthetic=SYNTHETIC,
        seed=0,
        skip_damaged=True,
    ),
}


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def made(kind, root):
    """The data module on written data, of which one training image is damaged, and that."""
    data = KINDS[kind](str(root))
    data.prepare_data()
    images = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg") and "train" in str(path)
    )
    damage(images[3])
    data.setup("fit")
    return data, images[3]


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_takes_the_place(tmp_path, kind):
    data, damaged = made(kind, tmp_path / "data")
    epochs = []
    for workers in (2, 0):
        data.workers = workers
        batches = list(data.train_dataloader())
        assert len(batches) >= 2
        assert all(len(batch["image"]) == 4 for batch in batches)
        (said,) = {sentence for batch in batches for sentence in batch.get("left_out", ())}
        assert str(damaged) in said
        epochs.append(batches)
    for one, two in zip(*epochs):  # whoever loads them
        assert one["name"] == two["name"]
        assert torch.equal(one["image"], two["image"])
    data.skip_damaged = False
    with pytest.raises(InputError, match=damaged.name):
        list(data.train_dataloader())


def test_nothing_else_changes_for_sound_data(tmp_path):
    data = KINDS["segmentation"](str(tmp_path / "data"))
    data.prepare_data()
    data.setup("fit")
    one = list(data.train_dataloader())
    data.skip_damaged = False
    for first, second in zip(one, data.train_dataloader()):
        assert first.keys() == second.keys()
        assert torch.equal(first["image"], second["image"])


class Half(torch.utils.data.Dataset):
    """Items of which those of the indices 0, 2, 4 and 6 are damaged."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        if index % 2 == 0 and index < 8:
            raise DamagedFile(f"{index}.png is truncated")
        return {"image": torch.full((3, 2, 2), index), "name": str(index), "noise": torch.rand(1)}


def test_a_spawned_loader_process_tells_too():
    drawn = Drawn(Half(), skip_damaged=True)
    draws = [(number, (0, 0, number)) for number in range(8)]
    options = {"sampler": draws, "batch_size": 4, "collate_fn": WithLeftOut(collate)}
    pickle.loads(pickle.dumps(drawn))
    own = list(DataLoader(drawn, **options))
    others = list(DataLoader(drawn, num_workers=1, multiprocessing_context="spawn", **options))
    for one, two in zip(own, others):
        assert one["left_out"] == two["left_out"]
        assert one["name"] == two["name"]
        assert torch.equal(one["noise"], two["noise"])
    assert {"0.png is truncated", "2.png is truncated"} <= set(own[0]["left_out"])


def test_the_draw_alone_decides():
    drawn = Drawn(Half(), skip_damaged=True)
    taken = [int(drawn[0, (7, 0, place)]["image"][0, 0, 0]) for place in range(200)]
    assert taken == [int(drawn[0, (7, 0, place)]["image"][0, 0, 0]) for place in range(200)]
    assert (np.bincount(taken, minlength=16) > 5).sum() == 12  # all sound images take part


def test_when_nothing_is_sound():
    class All(Half):
        def __getitem__(self, index):
            raise DamagedFile(f"{index}.png is truncated")

    with pytest.raises(InputError, match=r"10 images drawn in a row are damaged; the last: \d+\.png is truncated"):
        Drawn(All(), skip_damaged=True)[0, (0, 0, 0)]


def test_what_is_wrong_otherwise_is_not_skipped():
    class Wrong(Half):
        def __getitem__(self, index):
            raise InputError("label values outside the classes")

    with pytest.raises(InputError, match="label values"):
        Drawn(Wrong(), skip_damaged=True)[0, (0, 0, 0)]


OPTIONS = (
    *("--config", str(CONFIGS / "demo_segmentation.yaml"), "--data.synthetic", "{train: 12, val: 2, size: [48, 64]}"),
    *("--data.batch_size", "4", "--data.crop_size", "32", "--data.scale", "[64, 48]", "--data.workers", "1"),
    *("--trainer.max_steps", "8", "--trainer.val_check_interval", "8", "--data.skip_damaged", "true"),
)


class Killed(L.Callback):
    def on_train_batch_end(self, trainer, task, *args):
        if trainer.global_step == 6:
            raise RuntimeError("killed")


def test_a_run_lists_them_and_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main("fit", [*OPTIONS, "--trainer.max_steps", "1"])  # writes the data
    damaged = sorted(Path("data").rglob("*_leftImg8bit.png"))
    damaged = [next(path for path in damaged if "train" in str(path)), *[p for p in damaged if "train" in str(p)][5:6]]
    for path in damaged:
        damage(path)
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"left out: .*is truncated or damaged"):
        main("fit", [*OPTIONS, "--trainer.default_root_dir", "whole"])
    printed = capsys.readouterr().out
    assert "trained without 2 damaged files:" in printed
    (listed,) = Path("whole").glob("*/run_0/left_out.txt")
    assert all(str(path) in listed.read_text(encoding="utf-8") for path in damaged)
    with monkeypatch.context() as patch:
        patch.setattr("lk_downstream.cli.RunProgress", Killed)
        with pytest.warns(UserWarning, match="left out"), pytest.raises(RuntimeError, match="killed"):
            main("fit", [*OPTIONS, "--trainer.default_root_dir", "parts", "--checkpoint.every_n_steps", "1"])
    (last,) = Path("parts").glob("*/run_0/checkpoints/last.ckpt")
    main("fit", [*OPTIONS, "--trainer.default_root_dir", "parts", "--ckpt_path", str(last)])
    assert next(Path("parts").glob("*/run_1/left_out.txt")).read_text(encoding="utf-8") == listed.read_text(
        encoding="utf-8"
    )
    states = [
        torch.load(next(Path(folder).glob(f"*/{run}/checkpoints/last.ckpt")), weights_only=True)["state_dict"]
        for folder, run in (("whole", "run_0"), ("parts", "run_1"))
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    with pytest.raises(SystemExit, match=r"error: .* is truncated or damaged"):
        main("fit", [*OPTIONS, "--data.skip_damaged", "false"])
    for path in Path("data").rglob("*_leftImg8bit.png"):
        if "val" in str(path):
            damage(path)
    with pytest.raises(SystemExit, match=r"error: .* is truncated or damaged"):  # never in evaluation
        main("validate", [*OPTIONS[:-6], *OPTIONS[-2:], "--ckpt_path", str(last)])
