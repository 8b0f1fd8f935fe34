"""All tasks on a device that refuses float64, as Apple's GPUs do."""

import copy

import flows
import pytest
import torch
from pretended import Pretended, trainer_options

from lk_downstream import create_classifier, export, reparameterize
from lk_downstream.errors import InputError
from lk_downstream.metrics import ClassificationMetric, SegmentationMetric

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_task_trains_validates_and_predicts(root, tmp_path, kind):
    backbone = {"segmentation": "test_convnext", "classification": "test_slak", "detection": "test_replknet"}[kind]
    with Pretended("mps") as device:
        model, _ = flows.fit(
            kind, root, tmp_path, flows.callbacks(), backbone=backbone, **trainer_options(device.device)
        )
        flows.predict(kind, root, tmp_path, model, **trainer_options(device.device))
        if kind == "classification":
            flows.robustness(root, tmp_path, model, **trainer_options(device.device))
    assert device.uses


@pytest.mark.parametrize("kind", ["mps", "cuda"])
@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
@pytest.mark.parametrize("deep", [False, True])
def test_networks_are_merged_where_they_are(randomized, kind, name, deep):
    model = randomized(create_classifier(name, num_classes=5))
    expected = copy.deepcopy(model)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with Pretended(kind) as device, torch.no_grad():
        merged = reparameterize(model.to(device.device), deep=deep)
        assert {tensor.device for tensor in merged.state_dict().values()} == {device.device}
        got = merged(image.to(device.device)).cpu()
    torch.testing.assert_close(got, expected(image), rtol=1e-3, atol=1e-4)


def test_what_is_exported_is_prepared(root):
    module = flows.data("segmentation", root)
    with Pretended("mps") as device, torch.no_grad():
        as_it_is = export.Inside(resize=False, decide=False)  # the resize computes in float64
        network = export.network(flows.task("segmentation", module), as_it_is).eval().to(device.device)
        merged = reparameterize(network, deep=True)
        merged(torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device=device.device))


def test_metrics_are_those_of_a_cpu():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 9, generator=generator) * 3, torch.randint(0, 9, (300,), generator=generator)
    for metric, inputs in (
        (ClassificationMetric(tuple("abcdefghi")), (logits, labels)),
        (SegmentationMetric(tuple("abcdefghi")), (logits.argmax(1), labels.to(torch.uint8))),
    ):
        here = copy.deepcopy(metric)
        here.update(*inputs)
        expected = here.compute()
        with Pretended("mps") as device:
            there = metric.to(device.device)
            there.update(*(tensor.to(device.device) for tensor in inputs))
            for name, value in there.compute().items():
                assert torch.equal(value.cpu().nan_to_num(), expected[name].nan_to_num()), name


def test_a_run_in_float64_is_refused_in_a_sentence(root, tmp_path):
    module = flows.data("classification", root)
    model = flows.task("classification", module).double()
    with Pretended("mps") as device, pytest.raises(InputError, match="no float64"):
        flows.trainer(tmp_path, **trainer_options(device.device)).fit(model, datamodule=module)


# ---------------------------------------------------------------- planted faults


@pytest.mark.parametrize(
    "fault",
    [
        lambda x, device: x.double(),
        lambda x, device: x.double().cpu(),
        lambda x, device: x.to("cpu", torch.float64),  # the cast would be made before the move
        lambda x, device: torch.zeros(2, dtype=torch.float64, device=device),
        lambda x, device: torch.tensor(1.5, dtype=torch.float64, device=device),
        lambda x, device: torch.zeros(2, dtype=torch.float64).to(device),
        lambda x, device: x.sum(dtype=torch.float64),
        lambda x, device: x.new_zeros(2, dtype=torch.float64),
        lambda x, device: torch.nn.Linear(2, 2).double().to(device),
        lambda x, device: torch.zeros_like(x, dtype=torch.float64),
    ],
)
def test_float64_is_found(fault):
    with Pretended("mps") as device:
        x = torch.ones(2, device=device.device)
        with pytest.raises(TypeError, match="float64"):
            fault(x, device.device)
        assert x.cpu().double().dtype == torch.float64
