"""All flows of all tasks on a CUDA device that is not there: devices, waiting, types of operators."""

from collections import Counter
from types import SimpleNamespace

import flows
import pytest
import torch
import torch.nn.functional as F
from pretended import Pretended, WaitsOfSteps, trainer_options
from tables import UNLISTED
from unrepeatable import refusing

from lk_downstream.tasks import losses

pytestmark = pytest.mark.filterwarnings("ignore")

# How often a training step, from a batch on the device to the optimizer, makes the host wait for the device.
# Detection, of 2 images: 10 times the candidates of 5 levels, 8 draws of samples, up to 8 levels of regions, 2 each of
# the suppressions, of objects, of anchors within the images and of boxes that are not empty, and 2.
WAITS = {"segmentation": 0, "classification": 0, "detection": 36}
BACKBONE = {"segmentation": "test_slak", "classification": "test_replknet", "detection": "test_convnext"}
PRECISIONS = ("32-true", "bf16-true", "16-true", "bf16-mixed", "16-mixed")


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """Every flow of a task in a precision, once."""
    done = {}

    def run(kind, precision="32-true"):
        if (kind, precision) not in done:
            done[kind, precision] = rehearse(kind, root, tmp_path_factory.mktemp(kind), precision)
        return done[kind, precision]

    return run


def rehearse(kind, root, folder, precision):
    """In float32 everything that can be done; in 16 bits one step, a validation and a prediction, or the step alone."""
    with Pretended("cuda") as device:
        steps, options = WaitsOfSteps(device), {"backbone": BACKBONE[kind]}
        if precision == "32-true":
            more = [steps, *flows.callbacks()]
            model, _ = flows.fit(kind, root, folder, more, **options, **trainer_options(device.device))
            for rule in flows.RULES if kind == "segmentation" else ():
                flows.evaluate(root, folder, model, rule, **trainer_options(device.device))
            if kind == "classification":
                flows.robustness(root, folder, model, **trainer_options(device.device))
            flows.resume(kind, root, folder, flows.callbacks(), **options, **trainer_options(device.device))
        else:
            options |= {"precision": precision, "num_sanity_val_steps": 0}
            options |= {} if precision.endswith("true") else {"limit_val_batches": 0}
            model, _ = flows.fit(kind, root, folder, [steps], 1, **options, **trainer_options(device.device))
        if precision.endswith("true"):
            flows.predict(kind, root, folder, model, precision=precision, **trainer_options(device.device))
    return SimpleNamespace(waits=steps.steps, uses=device.uses, model=model)


@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_training_step_waits_no_oftener_than_stated(runs, kind):
    last = runs(kind).waits[-1]
    assert last.total() <= WAITS[kind], "\n".join(f"{n} {wait.what}: {wait.where}" for wait, n in last.most_common())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", flows.KINDS)
def test_the_device_has_every_operator_in_its_type(runs, table, kind, precision):
    run = runs(kind, precision)
    assert table.refused((use.operator, use.dtype) for use in run.uses) == []
    wanted = {"32-true": torch.float32, "bf": torch.bfloat16, "16": torch.float16}
    dtype = wanted.get(precision) or wanted[precision[:2]]
    if precision != "16-mixed":  # which autocast has for GPUs alone
        assert any(use.operator == "aten.convolution" and use.dtype == dtype for use in run.uses), "another precision"


@pytest.mark.parametrize("name", flows.DETECTORS)
def test_every_detector_trains(root, table, tmp_path, name):
    with Pretended("cuda") as device:
        flows.step(name, root, tmp_path, **trainer_options(device.device))
    assert table.refused((use.operator, use.dtype) for use in device.uses) == []


@pytest.mark.parametrize("options", [{"class_weight": [1.0, 2.0, 0.5]}, {}])
@pytest.mark.parametrize("name", ["PixelCrossEntropy", "OHEM", "Focal", "Dice", "Lovasz"])
def test_a_loss_is_repeatable_waits_for_nothing_and_takes_16_bits(table, name, options):
    with Pretended("cuda") as device:
        loss = getattr(losses, name)(**options).to("cuda")
        logits = torch.randn(2, 3, 5, 6, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        target = torch.arange(60, device="cuda").view(2, 5, 6) % 4
        target[target == 3] = 255
        device.waits.clear()
        value = loss(logits, target)
        value.backward()
    assert device.waits == []
    assert value.dtype == torch.float32
    assert refusing(device.uses) == []
    assert table.refused((use.operator, use.dtype) for use in device.uses) == []


class CopiesOf(Pretended):
    """Notes how many values are copied to the host at once."""

    def _move(self, tensor, *args, **options):
        result = super()._move(tensor, *args, **options)
        if self.holds(tensor) and not self.holds(result):
            self.copied.append(tensor.numel())
        return result


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("rule", flows.RULES)
def test_no_map_of_an_evaluated_image_comes_to_the_host(root, rule, planted):
    """Resizes, classes and counts stay on the device; the counts are read once, at the end."""
    module = flows.data("segmentation", root)
    with CopiesOf("cuda") as device, torch.no_grad():
        device.copied = []
        model = flows.task("segmentation", module, "test_slak", inference=flows.RULES[rule]).to("cuda").eval()
        images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8).to("cuda")
        masks = torch.zeros(2, 48, 64, dtype=torch.uint8).to("cuda")
        found = model.validation_step({"image": images, "mask": masks}, 0)["prediction"]
        assert found.shape == masks.shape
        if planted:
            found.cpu()
        most = max(device.copied, default=0)
        model.metric.compute()
    assert device.copied[-1] == len(module.classes) ** 2
    assert most == (masks.numel() if planted else 0)


def test_what_the_table_lacks_is_used(runs):
    """A reason for an operator that nobody uses would hide the next one of its name."""
    used = {use.operator for kind in flows.KINDS for use in runs(kind).uses}
    assert UNLISTED.keys() - used <= {"aten.item", "aten.slice_backward", "aten.feature_dropout"}  # as versions have it


# ---------------------------------------------------------------- planted faults


def test_devices_that_do_not_mix_are_those_of_pytorch():
    """FakeTensor is PyTorch's own judge of mixed devices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    cases = {
        "sum": lambda gpu, cpu: gpu + cpu,
        "number": lambda gpu, cpu: gpu + cpu[0, 0],
        "product": lambda gpu, cpu: gpu @ cpu,
        "together": lambda gpu, cpu: torch.cat((gpu, cpu)),
        "places": lambda gpu, cpu: gpu[cpu.long()[0]],
        "set": lambda gpu, cpu: gpu.__setitem__(0, cpu[0, 0]),
        "copy": lambda gpu, cpu: gpu.copy_(cpu),
        "layer": lambda gpu, cpu: F.linear(gpu, cpu),
        "choice": lambda gpu, cpu: torch.where(gpu > 0, gpu, cpu),
    }

    def verdicts(gpu, cpu):
        found = {}
        for name, run in cases.items():
            try:
                run(gpu, cpu)
                found[name] = True
            except (RuntimeError, TypeError):
                found[name] = False
        return found

    with FakeTensorMode():
        theirs = verdicts(torch.ones(2, 2, device="cuda"), torch.ones(2, 2))
    with Pretended("cuda"):
        ours = verdicts(torch.ones(2, 2, device="cuda"), torch.ones(2, 2))
    older = {"places", "set", "copy"}  # which a GPU takes, and the FakeTensor of PyTorch 2.9 does not
    assert {name: ours[name] for name in cases} == {**theirs, **{name: theirs[name] or ours[name] for name in older}}
    assert all(ours[name] for name in older)
    assert Counter(ours.values()) == {True: 4, False: 5}


def test_a_tensor_left_on_the_cpu_is_found():
    with Pretended("cuda") as device:
        layer = torch.nn.Linear(3, 2).to(device.device)
        with pytest.raises(RuntimeError, match="same device"):
            layer(torch.ones(1, 3))
        x = torch.ones(2, 3, device=device.device, requires_grad=True)
        with pytest.raises(RuntimeError, match="same device"):
            layer(x).backward(torch.ones(2, 2))
        with pytest.raises(TypeError, match="numpy"):
            x.detach().numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randperm(3, device=device.device, generator=torch.Generator())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x[torch.tensor([0])],
        lambda x: max(x),
        lambda x: x.unique(),
        lambda x: x.long().bincount(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.zeros(3).to(x.device),
    ],
)
def test_waiting_is_found(wait):
    with Pretended("cuda") as device:
        x = torch.arange(3.0, device=device.device)
        assert device.waits == []
        wait(x)
        assert device.waits


def test_what_does_not_wait_is_not_counted():
    with Pretended("cuda") as device:
        x = torch.arange(3.0, device=device.device, requires_grad=True)
        y = (torch.where(x > 1, x, 0) * 2).sum() + F.one_hot(x.detach().long(), 3).sum()
        y.backward()
        torch.zeros(3).to(device.device, non_blocking=True)
        assert x.grad.device == device.device
    assert device.waits == []
    assert torch.zeros(3).device.type == "cpu"


def test_a_missing_kernel_is_found(table):
    with Pretended("cuda") as device:
        image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8, device=device.device)
        F.interpolate(image, size=(8, 8), mode="bilinear")
    assert table.refused((use.operator, use.dtype) for use in device.uses) == ["aten.upsample_bilinear2d torch.uint8"]


def test_a_missing_kernel_of_a_backward_pass_is_found(table):
    assert table.refused([("aten.upsample_bilinear2d_backward", torch.uint8)])
    assert table.refused([("torchvision.roi_align", torch.bfloat16)])
    assert table.refused([("aten.made_up", torch.float32)])
    assert not table.refused([("aten.convolution_backward", torch.bfloat16)])
