import pickle
import re
import zipfile
from types import SimpleNamespace

import jsonargparse
import lightning as L
import pytest
import torch
from PIL import Image

from lk_downstream.data import ADE20K, Cityscapes, ImageFolder, SegmentationData, SegmentationFolder, Synthetic
from lk_downstream.data.batches import collate
from lk_downstream.errors import InputError

SMALL = Synthetic(train=10, val=5, size=(48, 64))


def make(root, dataset=ADE20K, **options):
    options = {"batch_size": 4, "crop_size": 32, "scale": (128, 48), "workers": 0, "synthetic": SMALL, **options}
    return SegmentationData(lambda split: dataset(split, root), **options)


class Devices:
    """What a data module asks of the Trainer."""

    def __init__(self, global_rank=0, world_size=1, accumulate_grad_batches=1):
        self.global_rank, self.world_size = global_rank, world_size
        self.accumulate_grad_batches, self.num_devices = accumulate_grad_batches, world_size
        self.limit_train_batches, self.global_step = 1.0, 0
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "ade"
    ADE20K("train", root).write_synthetic(SMALL)
    return root


def test_classes_are_known_before_there_is_any_data(tmp_path):
    data = make(tmp_path / "absent", synthetic=None)
    assert len(data.classes) == len(data.palette) == 150
    assert data.ignore_index == 255
    data.prepare_data()
    with pytest.raises(InputError, match=r"there is no folder .*absent"):
        data.setup("fit")
    assert list(tmp_path.iterdir()) == []


def test_batches(root):
    data = make(root, crop_size=(32, 40), workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 2  # 10 // 4
    batch = batches[0]
    assert batch["image"].shape == (4, 3, 32, 40)
    assert batch["mask"].shape == (4, 32, 40)
    assert batch["image"].dtype == batch["mask"].dtype == torch.uint8
    assert batch["size"].shape == (4, 2)
    assert batch["size"].dtype == torch.int64
    assert type(batch["image"]) is type(batch["mask"]) is torch.Tensor
    assert len({name for batch in batches for name in batch["name"]}) == 8
    validation = list(data.val_dataloader())
    assert [batch["name"] for batch in validation] == [[f"ADE_val_{number:08d}"] for number in range(1, 6)]
    assert validation[0]["image"].shape == (1, 3, 48, 64)
    assert validation[0]["mask"].shape == (1, 48, 64)
    assert validation[0]["size"].tolist() == [[48, 64]]


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_batches_other_epoch_other_batches(root, workers):
    def epochs(seed, count=2):
        L.seed_everything(seed, verbose=False)
        data = make(root, workers=workers)
        data.setup("fit")
        loader, result = data.train_dataloader(), []
        for epoch in range(count):
            loader.sampler.set_epoch(epoch)
            result.append([(batch["name"], batch["image"]) for batch in loader])
        return result

    one, two, other = epochs(1), epochs(1), epochs(2)
    for first, second in zip(one[0] + one[1], two[0] + two[1]):
        assert first[0] == second[0]
        assert torch.equal(first[1], second[1])
    assert one[0][0][0] != one[1][0][0]
    assert one[0][0][0] != other[0][0][0]


def test_workers_and_processes_draw_different_augmentations(root):
    draws = {}
    for rank in (0, 1):
        data = make(root, workers=2, batch_size=4)
        data.trainer = Devices(rank, 2)
        data.setup("fit")
        data.train_set.transform = lambda sample: {**sample, "image": torch.rand(1, 1, 1), "mask": torch.zeros(1)}
        draws[rank] = torch.cat([batch["image"] for batch in data.train_dataloader()]).flatten().tolist()
    drawn = draws[0] + draws[1]
    assert len(set(drawn)) == len(drawn) == 8


def test_global_batch_is_shared(root):
    data = make(root, batch_size=8)
    data.trainer = Devices(1, 2, accumulate_grad_batches=2)
    data.setup("fit")
    assert data.device_batch_size == 2
    assert len(data.train_dataloader()) == 2  # 5 images of this process
    data.trainer = Devices(0, 3)
    sentence = (
        "data.batch_size 8 is the global batch and does not divide by 3 devices x 1 accumulated batches "
        "(trainer.devices, trainer.accumulate_grad_batches): make it a multiple of 3 or change those"
    )
    with pytest.raises(InputError, match=re.escape(sentence)):
        data.train_dataloader()


def test_two_processes_validate_every_image_once(root):
    names = []
    for rank in (0, 1):
        data = make(root)
        data.trainer = Devices(rank, 2)
        data.setup("validate")
        names += [batch["name"][0] for batch in data.val_dataloader()]
    assert sorted(names) == [f"ADE_val_{number:08d}" for number in range(1, 6)]


def test_loaders_can_be_sent_to_spawned_processes(root):
    data = make(root)
    data.trainer = Devices()
    data.trainer.unpicklable = lambda: None
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        dataset, collate_fn = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
        assert collate_fn([dataset[next(iter(loader.sampler))]])["image"].shape[0] == 1


def test_epoch_smaller_than_a_batch(root):
    data = make(root, batch_size=16)
    data.setup("fit")
    with pytest.raises(
        InputError, match=r"10 training images, fewer than a batch of 16: make data\.batch_size smaller or"
    ):
        data.train_dataloader()
    data = make(root, batch_size=16, repeat=2)
    data.setup("fit")
    assert len(data.train_dataloader()) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "data.batch_size is 0: it must be at least 1"),
        ({"workers": -1}, "data.workers is -1: it must be at least 0"),
        ({"crop_size": 0}, "data.crop_size is 0"),
        ({"train_split": "trian"}, "ADE20K has no split 'trian'; did you mean"),
    ],
)
def test_options_that_are_wrong(tmp_path, options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        make(tmp_path, **options)


def test_validation_images_of_different_sizes(root):
    samples = [
        {"image": torch.zeros(3, 4, width), "mask": torch.zeros(4, width), "name": f"n{width}"} for width in (5, 6)
    ]
    with pytest.raises(InputError, match=r"n5 is 5 x 4 and n6 is 6 x 4: .* set data\.val_batch_size to 1"):
        collate(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_file_is_one_sentence_also_from_a_worker(tmp_path, workers):
    data = make(tmp_path / "ade", workers=workers)
    data.prepare_data()
    for path in (tmp_path / "ade/images/training").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    data.setup("fit")
    with pytest.raises(InputError) as error:
        next(iter(data.train_dataloader()))
    assert re.fullmatch(r"\S+/ADE_train_\d+\.jpg is truncated or damaged [^\n]*", str(error.value))


@pytest.mark.parametrize("dataset", [ADE20K, Cityscapes])
def test_generated_data_is_made_once(tmp_path, dataset):
    data = make(tmp_path / "parent" / "data", dataset)
    data.prepare_data()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    data.prepare_data()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    data.setup()
    assert len(data.train_set) == 10
    assert len(data.val_set) == 5


def test_own_folder_has_no_generated_data(tmp_path):
    data = SegmentationData(
        lambda split: SegmentationFolder(split, str(tmp_path / "absent"), classes=["a"]), synthetic=Synthetic()
    )
    with pytest.raises(InputError, match="SegmentationFolder has no generated data: remove the option synthetic"):
        data.prepare_data()


def test_prediction(tmp_path, root):
    data = make(root)
    with pytest.raises(InputError, match=r"set data\.predict to an image or a folder"):
        data.predict_dataloader()
    images = root / "images" / "validation"
    data = make(root, predict=str(images))
    batch = next(iter(data.predict_dataloader()))
    assert set(batch) == {"image", "size", "name"}
    assert batch["name"] == ["ADE_val_00000001"]
    assert len(ImageFolder(images / "ADE_val_00000002.jpg")) == 1
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "sub" / "B.PNG")
    (tmp_path / "a.png").mkdir()
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / ".hidden" / "c.png")
    assert ImageFolder(tmp_path)[0]["name"] == "sub/B"
    (tmp_path / "a.png" / "linked").symlink_to(tmp_path / "sub")
    assert ImageFolder(tmp_path).names == ["sub/B"]  # each file once
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(tmp_path / "sub" / "B.PNG", "x/d.png")
    inside = ImageFolder(tmp_path / "c.zip")
    assert inside.names == ["x/d"]
    assert inside[0]["image"].shape == (3, 4, 4)
    for path, sentence in ((tmp_path / "zzz", "there is no image or folder"), (root / "x", "there is no")):
        with pytest.raises(InputError, match=sentence):
            ImageFolder(path)


def parse(tmp_path, *arguments):
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(SegmentationData, "data")
    config = tmp_path / "config.yaml"
    config.write_text(
        "data:\n  class_path: SegmentationData\n  init_args:\n"
        "    dataset: {class_path: ADE20K, init_args: {root: somewhere}}\n"
        "    batch_size: 8\n    crop_size: 64\n    synthetic: {train: 3}\n",
        encoding="utf-8",
    )
    return parser.instantiate(parser.parse_args(["--config", str(config), *arguments])).data


def test_from_a_config(tmp_path):
    data = parse(tmp_path)
    assert (str(data.train_data.root), data.train_data.split, data.val_data.split) == (
        "somewhere",
        "training",
        "validation",
    )
    assert (data.batch_size, data.crop_size, data.synthetic) == (8, (64, 64), Synthetic(train=3))
    data = parse(
        tmp_path, "--data.dataset.root", "elsewhere", "--data.crop_size", "[32, 48]", "--data.synthetic", "null"
    )
    assert str(data.train_data.root) == "elsewhere"
    assert data.crop_size == (32, 48)
    assert data.synthetic is None
    data = parse(tmp_path, "--data.dataset", "Cityscapes", "--data.scale", "[2049, 1025]", "--data.synthetic.val=7")
    assert isinstance(data.val_data, Cityscapes)
    assert data.synthetic.val == 7
    folder = ["--data.dataset", "SegmentationFolder", "--data.dataset.root", "mine"]
    data = parse(tmp_path, *folder, "--data.dataset.classes", "[a, b]", "--data.dataset.label_map", "{7: 0, 8: 1}")
    assert data.classes == ("a", "b")
    assert int(data.train_data.label_table[8]) == 1


class Counter(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.orders = [], []

    def training_step(self, batch, index):
        self.orders.append((self.current_epoch, tuple(batch["name"])))
        return self.weight * batch["image"].float().mean()

    def validation_step(self, batch, index):
        self.seen += batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_under_a_trainer(tmp_path):
    """Data are made by prepare_data, accumulation makes the device batch smaller, each epoch has another order."""
    model, data = Counter(), make(tmp_path / "ade", batch_size=4)
    trainer = L.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == 4  # 10 images make two steps of 4; the others begin the next epoch
    assert {len(names) for _, names in model.orders} == {2}
    orders = [[names for epoch, names in model.orders if epoch == number] for number in (0, 1)]
    assert len(orders[0]) == len(orders[1]) == 4
    assert orders[0] != orders[1]
    assert sorted(model.seen) == sorted([f"ADE_val_{number:08d}" for number in range(1, 6)] * 2)


@pytest.mark.parametrize(
    "options",
    [{"scale": (0, 0)}, {"ratio_range": (2.0, 0.5)}, {"ratio_range": (0, 1)}, {"cat_max_ratio": 0}, {"flip": 2}],
    ids=str,
)
def test_values_out_of_their_range(root, options):
    with pytest.raises(InputError, match=rf"data\.{next(iter(options))} is"):
        make(root, **options)
