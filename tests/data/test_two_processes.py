"""Sampling, mixed data sets and the range test in two real processes: together they see what one process sees."""

import json
from functools import partial
from itertools import chain

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from processes import in_two_processes
from torch import nn

from lk_downstream.callbacks import FindLearningRate
from lk_downstream.data import (
    ClassBalanced,
    ClassFolder,
    ClassificationData,
    Coco,
    DetectionData,
    Mix,
    RepeatFactor,
    SegmentationData,
    SegmentationFolder,
    WeightColumn,
)

STEPS = 7  # more than an epoch of each
BATCH = 4


def write(root, seed, count):
    """Images with labels, masks and boxes, of two usual classes and a rare one."""
    generator = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": [{"id": n + 1, "name": n} for n in range(3)]}
    for folder in ("images/train", "annotations/train", "train2017", "train/a", "train/b", "train/c"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        kind, name = (2 if number == 3 else number % 2), f"{seed}_{number}.png"
        image = Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8))
        for folder in ("images/train", "train2017", f"train/{'abc'[kind]}"):
            image.save(root / folder / name)
        Image.fromarray(np.full((40, 48), kind, np.uint8)).save(root / "annotations/train" / name)
        content["images"].append({"id": number, "file_name": name, "width": 48, "height": 40})
        box = {"image_id": number, "category_id": kind + 1, "bbox": [4, 4, 30, 30], "area": 900, "iscrowd": 0}
        content["annotations"].append({"id": number + 1, **box})
    (root / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    names = [f"{'abc'[2 if n == 3 else n % 2]}/{seed}_{n}.png,{seed}_{n},{n % 3}" for n in range(count)]
    (root / "weights.csv").write_text("file,name,weight\n" + "\n".join(names) + "\n", encoding="utf-8")


def cases(root):
    """Data modules by name."""
    one, two = str(root / "one"), str(root / "two")
    folder, masks = partial(ClassFolder, folder="{split}"), partial(SegmentationFolder, classes=["a", "b", "c"])
    boxes = partial(Coco, annotations="instances.json")
    options = {"batch_size": BATCH, "workers": 0, "val_split": "train", "seed": 5}
    classes = partial(ClassificationData, partial(folder, root=one), size=16, **options)
    weights = WeightColumn(f"{one}/weights.csv", name="file")
    segments = partial(SegmentationData, partial(masks, root=one), crop_size=32, scale=(48, 40), **options)
    objects = partial(DetectionData, partial(boxes, root=one), scale=(48, 40), augmentation=[], **options)
    return {
        "plain": classes,
        "class balanced": partial(classes, sampling=ClassBalanced()),
        "weights": partial(classes, sampling=weights),
        "mix": partial(classes, mix=Mix([partial(folder, root=two)])),
        "mix by ratios, balanced": partial(
            classes, sampling=ClassBalanced(), mix=Mix([partial(folder, root=two)], [1, 3])
        ),
        "segmentation": partial(segments, sampling=ClassBalanced(0.5), mix=Mix([partial(masks, root=two)], [2, 1])),
        "repeat factor": partial(objects, sampling=RepeatFactor(0.5)),
        "repeat factor, mix": partial(objects, sampling=RepeatFactor(0.5), mix=Mix([partial(boxes, root=two)])),
    }


class Seeing(L.LightningModule):
    """Notes the names of each batch, and a sum of each image, which tells its augmentation."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        sums = batch["image"].double().flatten(1).sum(1).tolist()
        self.seen.append(list(zip(batch["name"], sums)) if "target" not in batch else [(n, 0) for n in batch["name"]])
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(devices, accumulate=1, steps=STEPS, **options):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, **options}
    return L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=steps,
        accumulate_grad_batches=accumulate, limit_val_batches=0, enable_model_summary=False,
        use_distributed_sampler=False, **options,
    )  # fmt: skip


def see(rank, devices, accumulate, root, folder):
    found = {}
    for name, make in cases(root).items():
        task, data = Seeing(), make()
        trainer(devices, accumulate).fit(task, data)
        draws = data.train_draws
        found[name] = [task.seen, None if draws is None else draws.tolist(), data.epoch_steps]
    (folder / f"{devices}_{accumulate}_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write(root / "one", 1, 14)
    write(root / "two", 2, 9)
    return root


@pytest.mark.filterwarnings("ignore")
def test_two_processes_see_what_one_sees(root, tmp_path):
    see(0, 1, 1, root, tmp_path)
    in_two_processes(see, 2, 1, root, tmp_path)
    in_two_processes(see, 2, 2, root, tmp_path)
    one = json.loads((tmp_path / "1_1_0.json").read_text(encoding="utf-8"))
    for accumulate in (1, 2):
        pair = [json.loads((tmp_path / f"2_{accumulate}_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
        for name in one:
            (seen, draws, steps), *others = one[name], *(part[name] for part in pair)
            assert [other[1:] for other in others] == [[draws, steps]] * 2, name
            assert len(seen) == STEPS
            for step in range(STEPS):
                own = slice(step * accumulate, (step + 1) * accumulate)
                both = [list(chain.from_iterable(other[0][own])) for other in others]
                assert sorted(map(tuple, chain(*both))) == sorted(map(tuple, seen[step])), (name, step)
                assert {len(part) for part in both} == {BATCH // 2}
    counts = [name for name, _ in chain.from_iterable(one["class balanced"][0])]
    assert sum(name.startswith("c/") for name in counts) > 5  # of 28, where one image of 14 is of the class c
    mixed = [name for name, _ in chain.from_iterable(one["mix by ratios, balanced"][0])]
    assert sum("/2_" in name for name in mixed) >= 0.7 * len(mixed)
    assert not any(name.endswith(("_0.png", "_3.png")) for name, _ in chain.from_iterable(one["weights"][0]))


class Line(L.LightningModule):
    """A network without batch norm, whose loss falls and then diverges."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        inputs = batch["image"].float().mean((2, 3)) / 127 - 1
        loss = ((self.layer(inputs).squeeze(1) - 5) ** 2).mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def find(rank, devices, accumulate, root, folder):
    finder, task = FindLearningRate(1e-4, 100.0, 40), Line()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    made = trainer(devices, accumulate, 60, callbacks=[finder], default_root_dir=folder)
    made.fit(task, cases(root)["class balanced"]())
    same = all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    found = [finder.rates[: len(finder.losses)], finder.losses, same, made.global_step]
    (folder / f"rates_{devices}_{accumulate}_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
def test_the_range_test_is_the_same_in_two_processes(root, tmp_path):
    find(0, 1, 1, root, tmp_path)
    for accumulate in (1, 2):
        in_two_processes(find, 2, accumulate, root, tmp_path)
    rates, losses, same, steps = json.loads((tmp_path / "rates_1_1_0.json").read_text(encoding="utf-8"))
    assert same
    assert 10 < steps < 40  # it has diverged
    for accumulate in (1, 2):
        found = [
            json.loads((tmp_path / f"rates_2_{accumulate}_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
        ]
        assert found[0] == found[1]
        assert found[0][0] == rates
        assert found[0][2:] == [True, steps]
        np.testing.assert_allclose(found[0][1], losses, rtol=1e-4)
