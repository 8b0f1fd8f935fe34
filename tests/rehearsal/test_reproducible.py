"""``--trainer.deterministic true`` on a GPU: nothing that trains is on PyTorch's list of what refuses."""

import re
from functools import partial

import flows
import pytest
import torch
import torch.nn.functional as F
from pretended import Pretended, trainer_options
from torch import nn
from torchvision import ops
from unrepeatable import DOCUMENTED, NOT_OURS, OLDER, refusing

from lk_downstream.detectors.roi_align import roi_align
from lk_downstream.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def strict():
    """As Lightning sets it."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", flows.KINDS)
def test_a_task_trains(root, tmp_path, kind):
    backbone = {"segmentation": "test_replknet", "classification": "test_slak", "detection": "test_convnext"}[kind]
    options = {"mixup": 0.0, "cutmix": 0.0} if kind == "classification" else {}
    with Pretended("cuda") as device:
        module = flows.data(kind, root)
        model = flows.task(kind, module, backbone, **options)
        try:
            own = {"num_sanity_val_steps": 0, **trainer_options(device.device)}
            flows.trainer(tmp_path, 1, deterministic=True, **own).fit(model, datamodule=module)
        finally:
            torch.use_deterministic_algorithms(False)
    flows.finite(model)
    assert refusing(device.uses) == []
    assert any(use.operator == "aten.convolution_backward" for use in device.uses)


@pytest.mark.parametrize("name", flows.DETECTORS)
def test_every_detector_trains(root, tmp_path, name, strict):
    with Pretended("cuda") as device:
        flows.step(name, root, tmp_path, deterministic=True, **trainer_options(device.device))
    assert refusing(device.uses) == []


@pytest.mark.parametrize("size", [7, 14])
def test_the_repeatable_gradient_of_regions_is_torchvisions(size, strict):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 17, 23, generator=generator)
    corner = torch.rand(60, 2, generator=generator) * 100 - 20  # some beyond the map, some of no size
    extent = torch.rand(60, 2, generator=generator) * torch.tensor([0.0, 1, 30, 80])[torch.arange(60) % 4, None]
    rois = torch.cat((torch.arange(60)[:, None] % 2, corner, corner + extent), 1)
    grad = torch.randn(60, 5, size, size, generator=generator)
    theirs = maps.clone().requires_grad_()
    expected = ops.roi_align(theirs, rois, size, 0.25, aligned=True)
    expected.backward(grad)
    with Pretended("cuda") as device:
        ours = maps.to("cuda").requires_grad_()
        got = roi_align(ours, rois.to("cuda"), size, 0.25)
        got.backward(grad.to("cuda"))
        assert torch.equal(got.detach().cpu(), expected.detach())
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-4, atol=1e-4)
    assert refusing(device.uses) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"loss": nn.CrossEntropyLoss(ignore_index=255)}, "CrossEntropyLoss"),
        ({"head": lambda channels, classes: nn.Sequential(nn.AdaptiveAvgPool2d(3))}, "AdaptiveAvgPool2d"),
    ],
)
def test_what_cannot_is_named_at_the_start(root, tmp_path, options, named):
    with Pretended("cuda") as device:
        module = flows.data("segmentation", root)
        model = flows.task("segmentation", module, "test_convnext", **options)
        run = partial(flows.trainer, tmp_path, **trainer_options(device.device))
        try:
            with pytest.raises(InputError, match=f"no reproducible {named}"):
                run(deterministic=True).fit(model, datamodule=module)
        finally:
            torch.use_deterministic_algorithms(False)


# ---------------------------------------------------------------- the list, and planted faults


def test_the_list_is_that_of_the_documentation():
    text = torch.use_deterministic_algorithms.__doc__
    refused = text[text.index("operations will throw a") : text.index("In addition, several operations fill")]
    assert [words for words in DOCUMENTED.values() if words not in refused and words not in OLDER] == []
    named = set(re.findall(r":(?:class|func):`(torch\.[\w.]+)`", refused)) - {"RuntimeError"}
    assert named - set(DOCUMENTED.values()) - OLDER == NOT_OURS, "the documentation has new ones"


@pytest.mark.parametrize(
    ("fault", "operator"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 3).sum().backward(), "aten._adaptive_avg_pool2d_backward"),
        (lambda x: F.cross_entropy(x, x.argmax(1)).backward(), "aten.nll_loss2d_forward"),
        (lambda x: F.cross_entropy(x[..., 0, 0], x[..., 0, 0].argmax(1)).backward(), "aten.nll_loss_forward"),
        (lambda x: F.grid_sample(x, torch.zeros_like(x)[:, :2].mT.mT.permute(0, 2, 3, 1)).sum().backward(),
         "aten.grid_sampler_2d_backward"),
        (lambda x: F.pad(x, (1, 1, 1, 1), "reflect").sum().backward(), "aten.reflection_pad2d_backward"),
        (lambda x: x.long().flatten().bincount(x.flatten()), "aten.bincount"),
        (lambda x: x.median(1), "aten.median"),
        (lambda x: torch._C._nn.upsample_bilinear2d(x, (9, 9), False, None).sum().backward(),
         "aten.upsample_bilinear2d_backward"),
    ],
)  # fmt: skip
def test_what_refuses_is_found(fault, operator, strict):
    with Pretended("cuda") as device:
        fault(torch.rand(2, 3, 6, 6, device="cuda").requires_grad_())
    assert any(line.startswith(operator + ":") for line in refusing(device.uses))


def test_torchvisions_own_regions_are_found(strict):
    with Pretended("cuda") as device:
        x = torch.rand(2, 3, 6, 6, device="cuda").requires_grad_()
        result = torch.ops.torchvision.roi_align(x, x.new_zeros(1, 5), 1.0, 7, 7, -1, True)
        try:
            result.sum().backward()
        except RuntimeError as error:  # since 0.27 it refuses where Python sees the device
            found = str(error)
        else:
            found = str(refusing(device.uses))
    assert "roi_align_backward" in found


def test_what_does_not_refuse_is_not_found(strict):
    with Pretended("cuda") as device:
        x = torch.rand(2, 3, 6, 6, device="cuda").requires_grad_()
        F.interpolate(x, size=(9, 9), mode="bilinear").sum().backward()  # PyTorch's own form for reproducible runs
        F.interpolate(x, size=(9, 9), mode="nearest").sum().backward()
        F.adaptive_avg_pool2d(x, 1).sum().backward()  # a mean
        x.detach().long().flatten().bincount()
        x.detach().median()
    assert refusing(device.uses) == []
