"""Every task on a GPU that is there: ``pytest -m gpu``. Without one all of this is skipped.

``LK_DOWNSTREAM_GPU_TESTS_ON=cpu`` runs the same on a CPU, to see that the tests themselves run to their end.
"""

import copy
import os

import flows
import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lk_downstream import create_classifier

DEVICE = os.environ.get("LK_DOWNSTREAM_GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
BACKBONE = {"segmentation": "test_slak", "classification": "test_replknet", "detection": "test_convnext"}
COMPILER = "inductor" if DEVICE == "cuda" else "aot_eager"  # which needs no C++ compiler
WAYS = {
    "float32": {"precision": "32-true"},
    "bfloat16": {"precision": "bf16-mixed"},
    "compiled": {"precision": "bf16-mixed", "compile": COMPILER},
    "checkpointing": {"precision": "bf16-mixed", "checkpointing": True},
    "contiguous": {"precision": "bf16-mixed", "channels_last": False},
}


class Devices(flows.L.Callback):
    """Where the weights of a step were."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_end(self, trainer, task, *args):
        self.seen |= {parameter.device.type for parameter in task.parameters()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_task_trains_validates_predicts_and_goes_on(root, tmp_path, kind, way):
    """Validation and prediction resize the images, on the device."""
    trainer = {"accelerator": DEVICE, "devices": 1, "precision": WAYS[way]["precision"]}
    options = {"backbone": BACKBONE[kind], **trainer, **WAYS[way]}
    devices = Devices()
    model, _ = flows.fit(kind, root, tmp_path, [devices, *flows.callbacks()], **options)
    assert devices.seen == {DEVICE}
    flows.predict(kind, root, tmp_path, model, **trainer)
    options.pop("compile", None)  # whose checkpoint has the same names, and which takes as long again
    flows.resume(kind, root, tmp_path, flows.callbacks(), **options)


@pytest.mark.parametrize("rule", flows.RULES)
def test_every_rule_of_inference_has_the_metrics_of_a_cpu(root, tmp_path, rule):
    model = flows.task("segmentation", flows.data("segmentation", root))
    there = flows.evaluate(root, tmp_path, model, rule, accelerator=DEVICE, devices=1)
    here = flows.evaluate(root, tmp_path, model, rule, accelerator="cpu", devices=1)
    assert there == pytest.approx(here, abs=0.5)  # percent: a few pixels of two nearly equal classes


def halves(rank, folder):
    """A step of each half of a batch, the statistics of all of it."""
    dist.init_process_group("gloo")  # two processes on one GPU, which nccl refuses
    model, images = synchronised()
    model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    (2 * model(images[2 * rank : 2 * rank + 2]).square().sum()).backward()  # DDP takes the mean of both
    state = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    torch.save(state | dict(model.module.named_buffers()), folder / f"{rank}.pt")
    dist.destroy_process_group()


def synchronised():
    torch.manual_seed(0)
    model = create_classifier("test_slak", num_classes=3).to(DEVICE)
    return model, torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@pytest.mark.skipif(DEVICE != "cuda", reason="PyTorch synchronises batch norms on GPUs alone")
def test_two_processes_have_the_statistics_of_one(tmp_path):
    model, images = synchronised()
    alone = copy.deepcopy(model)
    alone(images).square().sum().backward()
    in_two_processes(halves, tmp_path)
    expected = {name: parameter.grad for name, parameter in alone.named_parameters()} | dict(alone.named_buffers())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", map_location=DEVICE, weights_only=True)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            distance = (found[name].double() - tensor.double()).norm()
            assert distance <= 1e-3 * tensor.double().norm() + 1e-6, name
