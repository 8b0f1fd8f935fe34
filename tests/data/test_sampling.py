"""Samples that are drawn more often than others: how often, by which rule, and the same in all processes."""

import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from lk_downstream.data import ClassBalanced, ClassFolder, Coco, DataModule, RepeatFactor, WeightColumn
from lk_downstream.data.batches import Transformed
from lk_downstream.data.presence import Presence, presence
from lk_downstream.data.samplers import TrainingSampler
from lk_downstream.data.sampling import sample_names
from lk_downstream.errors import InputError

CLASSES = ("a", "b", "c")


class Masks:
    """Of each sample the classes that its mask holds."""

    def __init__(self, *held):
        self.held = held
        self.samples = [(f"folder/{index}", "", "") for index in range(len(held))]

    def __len__(self):
        return len(self.held)

    def __getitem__(self, index):
        return {"mask": torch.tensor([[*self.held[index], 255]], dtype=torch.uint8)}


COMMON = Masks(*[[0]] * 7, [0, 1], [1], [2])  # a in 8, b in 2, c in 1 of 10


def drawn(sampler, epochs=1):
    counts = Counter()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        counts.update(index for index, _ in sampler)
    return counts


@pytest.mark.parametrize("draws", [[0.5] * 8, [0.25, 0.25, 3.5, 1.0, 1.0, 0.0, 1.0, 1.0], [1.0] * 8])
def test_each_sample_is_drawn_as_often_as_it_should_be(draws):
    draws = np.array(draws)
    passed, passes = round(draws.sum()), 400
    sampler = TrainingSampler(8, 1, draws=draws)
    total = Counter()
    for number in range(passes):
        counts = Counter(sampler._order(number).tolist())
        assert sum(counts.values()) == passed
        for index, expected in enumerate(draws * passed / draws.sum()):
            assert np.floor(expected) <= counts[index] <= np.ceil(expected + 1e-9)
        total += counts
    shares = np.array([total[index] for index in range(8)]) / passes
    np.testing.assert_allclose(shares, draws * passed / draws.sum(), atol=0.12)


def test_processes_divide_the_same_order():
    draws = np.array([0.3, 2.4, 1.0, 1.3, 1.0])
    options = {"seed": 3, "repeat": 2, "draws": draws, "groups": [0, 1, 0, 1, 0]}
    one = list(TrainingSampler(5, 4, **options))
    two = [list(TrainingSampler(5, 4, rank, 2, **options)) for rank in (0, 1)]
    assert len(one) == 12
    assert sorted(one, key=lambda item: item[1]) == sorted(two[0] + two[1], key=lambda item: item[1])
    again = TrainingSampler(5, 4, **options)
    again.resume(1)
    assert list(again) == one[4:]


def test_repeat_factors_by_hand():
    """Shares 0.8, 0.2, 0.1; threshold 0.4: factors 1, sqrt(2), 2."""
    factors = RepeatFactor(0.4).draws(COMMON, CLASSES)
    assert factors == pytest.approx([1.0] * 7 + [2**0.5, 2**0.5, 2.0])
    assert RepeatFactor(0.001).draws(COMMON, CLASSES) == pytest.approx([1.0] * 10)
    assert RepeatFactor(1.0).draws(Masks([], []), CLASSES) == pytest.approx([1.0, 1.0])


def test_classes_in_balance():
    single = Masks(*[[0]] * 6, [1], [1], [2])
    draws = ClassBalanced().draws(single, CLASSES)
    assert draws.sum() == pytest.approx(9)
    assert [draws[:6].sum(), draws[6:8].sum(), draws[8]] == pytest.approx([3, 3, 3])
    assert ClassBalanced(0).draws(single, CLASSES) == pytest.approx([1.0] * 9)
    half = ClassBalanced(0.5).draws(single, CLASSES)
    assert half[8] / half[0] == pytest.approx(6**0.5)
    empty = ClassBalanced().draws(Masks([], [0], [1], [1]), CLASSES)
    assert empty[0] == empty.min() == pytest.approx(empty[2])


def test_a_data_module_draws_by_it():
    module = DataModule(batch_size=4, sampling=RepeatFactor(0.4), repeat=2, workers=0, seed=0)
    module.classes, module.train_set = CLASSES, COMMON
    assert module.epoch_length == 2 * round(7 + 2 * 2**0.5 + 2)
    assert module.epoch_steps == module.epoch_length // 4
    counts = drawn(module.train_dataloader().sampler, 10)
    assert counts[9] > 1.5 * counts[0]
    assert set(counts) == set(range(10))


def table(dataset, classes):
    found = presence(dataset, classes)
    held = np.zeros(found.shape, dtype=bool)
    held[found.samples, found.classes] = True
    assert held.sum() == len(found.samples)
    return held.tolist()


def test_what_is_asked_of_pairs_is_that_of_a_table():
    rng = np.random.default_rng(0)
    for _ in range(50):
        held = rng.random((rng.integers(0, 9), rng.integers(1, 6))) < rng.random()
        pairs, values = Presence.of(held), rng.normal(size=held.shape[1])
        assert pairs.counts().tolist() == held.sum(0).tolist()
        assert pairs.any().tolist() == held.any(1).tolist()
        assert pairs.largest(values, -9.0).tolist() == np.where(held, values, -9.0).max(1, initial=-9).tolist()
        chosen = rng.integers(0, len(held), 7 if len(held) else 0)
        for one, other in zip(pairs.taken(chosen), Presence.of(held[chosen])):
            assert np.array_equal(one, other)


def test_a_large_data_set_takes_no_table():
    folder = ClassFolder("train", "nowhere")
    folder.samples = (), np.arange(1_200_000, dtype=np.int32) % 1000
    tracemalloc.start()
    draws = ClassBalanced().draws(folder, [""] * 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (draws.min(), draws.max()) == pytest.approx((1, 1))
    assert peak < 100e6  # of 1.2 GB


def test_classes_of_wrapped_data_sets():
    whole = ConcatDataset([Transformed(Subset(COMMON, [9, 7]), None), Masks([2])])
    assert table(whole, 3) == [[False, False, True], [True, True, False], [False, False, True]]
    assert sample_names(whole) == ["folder/9", "folder/7", "folder/0"]


def test_classes_of_folders_and_annotation_files(tmp_path):
    for name in ("train/x/1.png", "train/x/2.png", "train/y/1.png", "train2017/1.png", "train2017/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    folder = ClassFolder("train", str(tmp_path))
    assert table(folder, 2) == [[True, False], [True, False], [False, True]]
    assert sorted(sample_names(folder)) == ["x/1.png", "x/2.png", "y/1.png"]
    box = {"bbox": [1, 1, 4, 4], "area": 16, "image_id": 1}
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 8} for number in (1, 2)],
        "annotations": [{"id": n, "category_id": c, "iscrowd": n - 1, **box} for n, c in ((1, 7), (2, 3))],
        "categories": [{"id": 3, "name": "three"}, {"id": 7, "name": "seven"}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    coco = Coco("train", str(tmp_path))
    assert table(coco, 2) == [[False, True], [False, False]]
    assert sample_names(coco) == ["1.png", "2.png"]


def test_weights_of_a_table(tmp_path):
    table = tmp_path / "weights.csv"
    data = Masks([0], [0], [0])
    table.write_text("name,weight\nfolder/0.png,1\nfolder\\1,3\nfolder/2.jpg,0\nother,9\n", encoding="utf-8")
    assert WeightColumn(str(table)).draws(data, CLASSES) == pytest.approx([0.75, 2.25, 0.0])
    for text, said in (
        ("name,weigth\nfolder/0,1\n", "did you mean 'weigth'"),
        ("name,weight\nfolder/0,1\nfolder/1,x\n", "must hold numbers"),
        ("name,weight\nfolder/0,1\nfolder/1,1\n", "no weight of 1 of 3 samples, such as 'folder/2'"),
        ("name,weight\nfolder/0,-1\nfolder/1,1\nfolder/2,1\n", "0 or more"),
        ("", "it has no rows"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            WeightColumn(str(table)).draws(data, CLASSES)
    with pytest.raises(InputError, match="cannot be read"):
        WeightColumn(str(tmp_path / "none.csv")).draws(data, CLASSES)


@pytest.mark.parametrize("rule", [lambda: ClassBalanced(2), lambda: RepeatFactor(0)])
def test_wrong_settings(rule):
    with pytest.raises(InputError):
        rule()
