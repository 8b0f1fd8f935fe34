"""Colours distorted on whole batches: the same images as from loader processes, to one grey level."""

import lightning as L
import pytest
import torch
from torchvision import tv_tensors

from lk_downstream.data import ADE20K, SegmentationData, Synthetic
from lk_downstream.data.batch_distortion import KEY, DrawnDistortion, distort_batch
from lk_downstream.data.distortion import PhotoMetricDistortion


def images(number, seed=0):
    """Noise, greys, and colours at the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (number, 3, 24, 40), generator=generator).to(torch.uint8)
    noise[:, :, :6] = noise[:, :1, :6]
    noise[:, :, 6:12] = (noise[:, :, 6:12] > 127) * 255
    return noise


def differences(ours, theirs):
    return (ours.int() - theirs.int()).abs()


def test_a_batch_is_distorted_as_its_images_are():
    batch = images(64)
    kinds, results = [], []
    for kind in (PhotoMetricDistortion(), DrawnDistortion()):
        torch.manual_seed(5)
        kinds.append([kind({"image": tv_tensors.Image(image)}) for image in batch])
        results.append(torch.rand(3))  # as much of the chance is used up
    assert torch.equal(*results)
    expected = torch.stack([sample["image"].as_subclass(torch.Tensor) for sample in kinds[0]])
    amounts = torch.stack([sample[KEY] for sample in kinds[1]])
    assert len(amounts.unique(dim=0)) > 50
    found = differences(distort_batch(batch, amounts), expected)
    assert found.max() <= 1
    assert (found > 0).float().mean() < 0.02
    other = differences(distort_batch(batch, amounts.roll(1, 0)), expected)  # a planted fault is seen
    assert other.max() > 100


def test_neutral_amounts_change_nothing_and_the_memory_order_stays():
    neutral = torch.tensor([[0.0, 1, 1, 0, 0], [0.0, 1, 1, 0, 1]])
    batch = images(2).contiguous(memory_format=torch.channels_last)
    result = distort_batch(batch, neutral)
    assert torch.equal(result, batch)
    assert result.is_contiguous(memory_format=torch.channels_last)


class Seen(L.LightningModule):
    """Keeps the batches that reach a training step."""

    def __init__(self):
        super().__init__()
        self.weight, self.batches = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(root, augment_on, **options):
    model, synthetic = Seen(), Synthetic(train=6, val=1, size=(60, 90))
    data = SegmentationData(
        lambda split: ADE20K(split, root), 2, (50, 80), scale=(90, 60), workers=0, seed=3, augment_on=augment_on,
        synthetic=synthetic, **options,
    )  # fmt: skip
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_steps": 4}
    trainer = L.Trainer(**options, accelerator="cpu", devices=1, limit_val_batches=0, default_root_dir=root)
    trainer.fit(model, datamodule=data)
    return model.batches


@pytest.mark.filterwarnings("ignore")
def test_a_training_sees_the_same_images_wherever_they_are_distorted(tmp_path):
    here, there = batches(tmp_path / "ADE", "worker"), batches(tmp_path / "ADE", "device")
    plain = batches(tmp_path / "ADE", "worker", distortion=False)
    for own, other, undistorted in zip(here, there, plain, strict=True):
        assert own["name"] == other["name"]
        assert KEY not in other
        assert torch.equal(own["mask"], other["mask"])
        for number, (height, width) in enumerate(own["size"].tolist()):
            one, two, bare = (part["image"][number, :, :height, :width] for part in (own, other, undistorted))
            assert differences(one, two).max() <= 1
    assert differences(one, bare).max() > 1


def test_without_a_trainer_the_samples_are_distorted():
    data = SegmentationData(ADE20K, augment_on="device")
    assert any(type(step) is PhotoMetricDistortion for step in data.transform.transforms)
