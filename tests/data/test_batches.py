"""Batches on their way from a loader process."""

import os

import pytest
import torch
from torch.utils.data import DataLoader

from lk_downstream.data.batches import InSharedMemory, collate
from lk_downstream.refusals import sentence

SAMPLES = [
    {"image": torch.full((3, 2, 2), index), "name": str(index), "target": {"mask": torch.ones(2)}} for index in range(4)
]


def test_they_are_shared_in_whatever_they_lie():
    (batch,) = DataLoader(SAMPLES, 4, num_workers=1, collate_fn=InSharedMemory(collate))
    assert batch["image"].is_shared()
    assert batch["name"] == ["0", "1", "2", "3"]
    assert all(target["mask"].is_shared() for target in batch["target"])
    (own,) = DataLoader(SAMPLES, 4, collate_fn=InSharedMemory(collate))
    assert not own["image"].is_shared()
    assert torch.equal(own["image"], batch["image"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a spawned process has the real function")
def test_too_little_shared_memory_is_an_error_and_no_wait(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RuntimeError, match="No space left") as refused:
        list(DataLoader(SAMPLES, 4, num_workers=1, collate_fn=InSharedMemory(collate), multiprocessing_context="fork"))
    assert "--shm-size 8g, or set --data.workers 0" in sentence(refused.value)
