"""Other forms of large kernels in exported files: the same sums, where it is worth it."""

import copy
import importlib
import importlib.util

import pytest
import small_models
import torch
from torch import nn

from lk_downstream import export
from lk_downstream.commands import run
from lk_downstream.export import kernels
from lk_downstream.ops import LargeKernelConv2d

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, export.PACKAGES)), reason="the extra `export` is missing"
)


class Kernels(nn.Module):
    channels = 3

    def __init__(self):
        super().__init__()
        self.first = LargeKernelConv2d(3, 3, 31, padding=15, groups=3)
        self.flat = LargeKernelConv2d(3, 3, (5, 51), padding=(2, 25), groups=3)
        self.dense = nn.Conv2d(3, 3, 3, padding=1)
        self.small = LargeKernelConv2d(3, 3, 21, padding=10, groups=3)

    def forward(self, x):
        x = self.dense(self.flat(self.first(x.to(self.dense.weight.dtype))))
        return self.small(nn.functional.avg_pool2d(x, 4))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Kernels().double().eval()


def test_the_padded_form_gives_the_same_in_float64(model):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    x = torch.randn(1, 3, 24, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (x,))
    written = torch.onnx.export(program, (), verbose=False, optimize=False).model_proto
    maps = kernels.seen_maps(model, 40, 44, kernels.FEWEST_TAPS)
    assert maps == [(model.first, (40, 44)), (model.small, (10, 11))]
    chosen = kernels.worth_padding(written.graph, maps)
    assert len(chosen) == 1  # too few taps, and too small a map, stay
    kernels.pad_before(written, chosen)
    onnx.checker.check_model(written, full_check=True)
    assert [node.op_type for node in written.graph.node].count("Pad") == 1
    (got,) = ReferenceEvaluator(written).run(None, {written.graph.input[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=0, atol=1e-12)
    assert kernels.seen_maps(nn.Sequential(nn.Conv2d(3, 3, 3)), 8, 8) == []


def test_trimmed_kernels_give_the_same_in_float64(model):
    x = torch.randint(0, 256, (2, 3, 12, 28), generator=torch.Generator().manual_seed(0)).double() / 255
    trimmed = copy.deepcopy(model)
    assert kernels.trim(kernels.seen_maps(trimmed, *x.shape[-2:])) == 2
    assert trimmed.first.kernel_size == (23, 31)
    assert trimmed.flat.kernel_size == (5, 51)
    assert trimmed.small.kernel_size == (5, 13)
    with torch.no_grad():
        torch.testing.assert_close(trimmed(x), model(x), rtol=0, atol=1e-12)
        wider = torch.cat((x, x), 2)  # whose taps are no longer all there
        assert (trimmed(wider) - model(wider)).abs().max() > 1e-3


def test_of_a_convolution_computed_twice_the_larger_map_counts(model):
    conv = model.first
    assert kernels.trim([(conv, (4, 30)), (conv, (9, 3))]) == 1
    assert conv.kernel_size == (17, 31)
    assert conv.weight.shape == (3, 1, 17, 31)


def test_files_of_classifiers_have_trimmed_kernels(tmp_path):
    """At 64 pixels the maps have sides of 16, 8, 4 and 2, and the kernels are those of 13, 11, 9 and 7."""
    task = small_models.classification()
    (done,) = export.export(task, tmp_path / "net", ["pt2"])
    for state, sides in (
        (task.state_dict(), {3, 7, 9, 11, 13}),
        (torch.export.load(done.path).state_dict, {3, 7, 11, 13}),
    ):
        depthwise = (value.shape for value in state.values() if value.ndim == 4 and value.shape[1] == 1)
        assert {shape[-1] for shape in depthwise if shape[-1] > 1} == sides


class Large(nn.Module):
    """A classifier with one large kernel."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 32), "crop_pct": 1.0}
    num_classes = 3

    def __init__(self):
        super().__init__()
        self.conv = LargeKernelConv2d(3, 3, 21, padding=10, groups=3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@needs_onnx
def test_padding_before_is_an_option(tmp_path):
    onnx = importlib.import_module("onnx")
    (done,) = export.export(Large().eval(), tmp_path / "net", ["onnx"], pad_kernels=True)  # compares them
    nodes = onnx.load(done.path).graph.node
    assert [node.op_type for node in nodes].count("Pad") == 1
    assert done.differences["probabilities"] < 1e-4


@needs_onnx
def test_runtimes_are_compared(capsys):
    options = ["--batch", "1", "--channels", "2", "--sizes", "6", "--kernels", "5", "--rounds", "1"]
    assert run("benchmark", ["runtimes", *options]) == 0
    heading, values = capsys.readouterr().out.splitlines()[1:]
    found = dict(zip(heading.split(" | "), map(float, values.split(" | "))))
    assert {"ours", "onnxruntime", "onnxruntime_padded"} < set(found)
    assert found["error"] < 1e-5
