"""All tasks in every precision: through the Trainer, and cast by hand."""

import flows
import pytest
import torch
from lightning.pytorch.plugins import HalfPrecision

from lk_downstream.data.detection_batches import Target, collate_detection
from lk_downstream.export import network

pytestmark = pytest.mark.filterwarnings("ignore")
TYPES = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64, "float": torch.float32}
BACKBONE = {"segmentation": "test_slak", "classification": "test_replknet", "detection": "test_convnext"}


@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_task_trains_in_float64(root, tmp_path, kind):
    model, _ = flows.fit(kind, root, tmp_path, backbone=BACKBONE[kind], precision="64-true", accelerator="cpu")
    assert next(model.parameters()).dtype == torch.float64
    assert flows.predict(kind, root, tmp_path, model, precision="64-true", accelerator="cpu")


@pytest.mark.parametrize("cast", TYPES)
@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_task_that_is_cast_predicts(root, kind, cast):
    model = getattr(flows.task(kind, flows.data(kind, root), BACKBONE[kind]).eval(), cast)()
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert model.normalize(images).dtype == TYPES[cast]
    with torch.inference_mode():
        if kind == "segmentation":
            for rule in flows.RULES.values():
                model.inference = rule
                assert model.predict(images).dtype == torch.uint8
        elif kind == "classification":
            assert model.logits(images).dtype == torch.float32
        else:
            (found,) = model.predict(images, torch.tensor([[64, 64]]), [torch.tensor([70, 90])])
            assert found["boxes"].dtype == torch.float32
            assert found["masks"].shape[1:] == (70, 90)
        exported = model if kind != "detection" else None
        if exported is not None:
            network(exported).eval()(images)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_normalised_images_are_rounded_once(root, cast):
    model = flows.task("classification", flows.data("classification", root), "test_convnext")
    images = torch.arange(256).to(torch.uint8).repeat(3, 1)[None, :, None]
    exact = model.normalize(images)
    assert torch.equal(getattr(model, cast)().normalize(images), exact.to(TYPES[cast]))
    assert torch.equal(model.float().normalize(images), exact), "mean and deviation have been rounded"


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_boxes_are_not_rounded_with_the_batch(precision):
    boxes = torch.tensor([[1001.0, 3.0, 1003.5, 2047.0]])
    target = {"boxes": boxes, "labels": torch.tensor([0]), "image_id": 7}
    sample = {"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "target": target, "name": "a"}
    batch = HalfPrecision(precision).convert_input(collate_detection([sample]))
    (kept,) = batch["target"]
    assert torch.equal(kept["boxes"], boxes)
    assert kept["image_id"] == 7
    assert {**kept.to("cpu")}.keys() == target.keys()
    assert HalfPrecision(precision).convert_input([target])[0]["boxes"].dtype != torch.float32  # a dict's are


def test_a_step_too_small_for_float16_is_made_larger(root, tmp_path, capsys):
    """The usual eps of Adam is 0 in float16, where a gradient's square often is: all weights became NaN."""
    _, run = flows.fit("classification", root, tmp_path, steps=1, precision="16-true", accelerator="cpu")
    assert {group["eps"] for group in run.optimizers[0].param_groups} == {1e-4}
    assert "eps" in capsys.readouterr().out


def test_a_target_is_no_dict():
    assert "masks" not in Target({"boxes": 1})
    with pytest.raises(KeyError):
        Target({})["boxes"]


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize("kind", flows.KINDS)
def test_an_input_of_another_type_is_found(root, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(
        "lk_downstream.tasks.base.Task.normalize", lambda self, images, sizes=None: images.float() / 255
    )
    with pytest.raises(RuntimeError, match=r"type"):
        flows.fit(kind, root, tmp_path, backbone=BACKBONE[kind], precision="bf16-true", accelerator="cpu")
