"""Runs of every task that are shared by a folder as Hub, and loaded in another process without their configs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import lk_downstream
from lk_downstream import sharing

LOADED = """
    import sys
    import numpy as np
    import lk_downstream

    name, image, output = sys.argv[1:]
    model = lk_downstream.load(name, device="cpu")
    result = model.predict(np.load(image))
    kinds = ("mask", "boxes", "scores", "labels", "masks", "probabilities")
    arrays = {kind: getattr(result, kind) for kind in kinds if getattr(result, kind, None) is not None}
    np.savez(output, classes=np.array(result.classes), **arrays)
"""


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_others_get_the_same_predictions_to_the_bit(task, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv(sharing.FOLDER, str(tmp_path / "hub"))
    sharing.share(trained[task]["run"], f"me/{task}", license="mit")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    words = [f"hf-hub:me/{task}", str(tmp_path / "image.npy"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-c", textwrap.dedent(LOADED), *words], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    expected = lk_downstream.load(trained[task]["run"], device="cpu").predict(image)
    assert tuple(found["classes"]) == tuple(expected.classes)
    kinds = [kind for kind in found.files if kind != "classes"]
    assert kinds == (["mask"] if task == "segmentation" else ["boxes", "scores", "labels", "masks"])
    for kind in kinds:
        assert np.array_equal(found[kind], getattr(expected, kind)), kind
    card = (tmp_path / "hub" / "me" / task / "README.md").read_text(encoding="utf-8")
    assert task in card
    assert "license: mit" in card
