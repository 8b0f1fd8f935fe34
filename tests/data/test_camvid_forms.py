"""Four images of CamVid in every form: the same images and label maps, to the last pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mask_forms import FORMS, Samples

from lk_downstream.data import SegmentationFolder

CAMVID = Path(__file__).parents[3] / "shared/data/camvid"
pytestmark = pytest.mark.skipif(not CAMVID.is_dir(), reason="no CamVid")


@pytest.fixture(scope="module")
def samples():
    """At a sixth of their size, with unlabelled pixels."""
    dataset = SegmentationFolder("val", str(CAMVID))
    items = [dataset[number] for number in range(0, len(dataset), len(dataset) // 4)][:4]
    images = {item["name"]: item["image"].permute(1, 2, 0).numpy()[::6, ::6] for item in items}
    return Samples(images, {item["name"]: item["mask"].numpy()[::6, ::6] for item in items}, list(dataset.classes))


@pytest.mark.parametrize("form", FORMS)
def test_label_maps_are_the_same(tmp_path, samples, form):
    if form == "Parquet":
        pytest.importorskip("pyarrow")
    dataset = FORMS[form](samples, tmp_path / "data")("val")
    assert tuple(dataset.classes) == tuple(samples.classes)
    items = [dataset[number] for number in range(len(dataset))]
    for item in items:
        assert (item["image"].permute(1, 2, 0).numpy() == samples.images[item["name"]]).all()
    found = {item["name"]: item["mask"].as_subclass(torch.Tensor).numpy() for item in items}
    assert {name: mask.tolist() for name, mask in found.items()} == {n: m.tolist() for n, m in samples.maps.items()}
    assert {255, 0} <= set(np.unique(np.concatenate([*map(np.ravel, found.values())])).tolist())
