"""Class maps in parts: the same values, and how much memory they hold."""

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lk_downstream.errors import InputError
from lk_downstream.inference import MultiScale, Slide, Whole, class_maps

MiB = 2**20


def network(classes, stride=4, channels_last=True):
    """Logits at a stride, which depend on the image."""
    weights = torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(0)) / 40

    def logits(images):
        maps = F.conv2d(F.avg_pool2d(images.float(), stride, ceil_mode=True), weights)
        return maps.contiguous(memory_format=torch.channels_last) if channels_last else maps

    return logits


def make_images(height, width, number=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, height, width), generator=generator).to(torch.uint8)


RULES = {
    "whole": Whole((120, 60)),
    "whole, as it is": Whole(None),
    "slide": Slide(32, 21, (120, 60)),
    "slide, four at once": Slide(32, 21, (120, 60), batch=4),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_parts_of_the_classes_are_the_whole(rule, flip, align_corners, monkeypatch):
    rule, images = RULES[rule], make_images(50, 80, 2)
    maps = rule.maps(network(11), rule.resized(images), (50, 80), align_corners, flip)
    expected = maps.full()
    assert expected.shape == maps.shape == (2, 11, 50, 80)
    assert expected.std() > 0.1
    monkeypatch.setattr(class_maps, "CHUNK_BYTES", 4 * 4 * 2 * 60 * 96)  # four classes at a time
    assert len(list(maps.chunks())) == 3
    assert (maps.full() - expected).abs().max() / expected.std() < 1e-5
    assert torch.equal(maps.argmax(), expected.argmax(1).to(torch.uint8))
    assert (maps.part(slice(3, 5)) - expected[:, 3:5]).abs().max() / expected.std() < 1e-5


def test_of_equal_scores_the_first_class_counts(monkeypatch):
    monkeypatch.setattr(class_maps, "CHUNK_BYTES", 1)  # one class at a time
    scores = torch.tensor([1.0, 5, 5, 2, 5]).view(1, 5, 1, 1).expand(1, 5, 2, 3)
    assert (Whole(None).predict(lambda images: scores, make_images(2, 3)) == 1).all()


def test_windows_by_hand():
    """Two windows on one row: each pixel has the mean of those that cover it."""
    numbers = iter([1.0, 4.0])
    rule = Slide((2, 4), (2, 3), scale=None)
    logits = rule(lambda images: torch.full((1, 1, 2, 4), next(numbers)), make_images(2, 6))
    assert rule.positions(2, 6) == [(slice(0, 2), slice(0, 4)), (slice(0, 2), slice(2, 6))]
    assert logits[0, 0].tolist() == [[1, 1, 2.5, 2.5, 4, 4]] * 2


def test_several_windows_at_once_are_few_calls():
    seen = []
    net = network(3)
    rule = Slide(32, 21, None, batch=4)
    rule(lambda images: (seen.append(len(images)), net(images))[1], make_images(64, 96, 2))
    assert sum(seen) == 2 * len(rule.positions(64, 96))
    assert max(seen) == 8
    with pytest.raises(InputError, match="batch of the sliding window is 0"):
        Slide(32, batch=0)


class LiveMaps(TorchDispatchMode):
    """Counts the bytes of all storages that operators have made and that are alive, and those of at least ``size``."""

    def __init__(self, size):
        super().__init__()
        self.size, self.storages, self.bytes, self.maps = size, {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self.storages[reference.cdata] = (reference, storage.nbytes())
        self.storages = {key: item for key, item in self.storages.items() if not item[0].expired()}
        sizes = [size for _, size in self.storages.values()]
        self.bytes, self.maps = max(self.bytes, sum(sizes)), max(self.maps, sum(s >= self.size for s in sizes))
        return result


@pytest.mark.parametrize("rule", [Whole(), Slide(512, 341)], ids=["whole", "slide"])
def test_multi_scale_of_ade20k_holds_at_most_three_maps(rule):
    """512 x 683, 150 classes, up to 896 x 1195: a map of all classes has 200 MiB, the largest copy's would have 612."""
    size = 4 * 150 * 512 * 683
    images = make_images(512, 683)
    with torch.no_grad(), LiveMaps(size) as live:
        prediction = MultiScale(rule, ratios=(1.75,)).predict(network(150), images)
    assert prediction.shape == (1, 512, 683)
    assert live.maps <= 3
    assert live.bytes < 3 * size


def test_one_scale_holds_no_map_of_all_classes():
    size = 4 * 150 * 512 * 683
    with torch.no_grad(), LiveMaps(size) as live:
        Whole().predict(network(150), make_images(512, 683))
    assert live.maps == 0
    with torch.no_grad(), LiveMaps(size) as live:
        Whole()(network(150), make_images(512, 683))
    assert live.maps == 1  # that is how the counting is known to count
