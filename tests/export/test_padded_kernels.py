"""The padded form of large kernels: the same sums, where it is worth it."""

import pytest
import torch
from torch import nn

from lk_downstream.export import kernels
from lk_downstream.ops import LargeKernelConv2d


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


def test_the_padded_form_gives_the_same_in_float64():
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model = Kernels().double().eval()
    x = torch.randn(1, 3, 24, 28, dtype=torch.float64)
    program = torch.export.export(model, (x,))
    written = torch.onnx.export(program, (), verbose=False, optimize=False).model_proto
    maps = kernels.usual_maps(model, 40, 44)
    assert maps == [((31, 31), 40), ((5, 51), 40), ((21, 21), 10)]
    assert kernels.pad_before(written, maps) == 1  # too few taps, and too small a map, stay
    onnx.checker.check_model(written, full_check=True)
    assert [node.op_type for node in written.graph.node].count("Pad") == 1
    (got,) = ReferenceEvaluator(written).run(None, {written.graph.input[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=0, atol=1e-12)
    assert kernels.usual_maps(nn.Sequential(nn.Conv2d(3, 3, 3)), 8, 8) == []
