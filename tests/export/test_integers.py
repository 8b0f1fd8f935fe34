"""How int8 files round: zero points, and products that no CPU's sums overflow."""

import importlib
import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from lk_downstream import InputError, export
from lk_downstream.export import precisions

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, export.PACKAGES)), reason="the extra `export` is missing"
)


class Bright(nn.Module):
    """All weights as large as they can be: of a white image every product is the largest."""

    pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "input_size": (3, 8, 8), "crop_pct": 1.0}
    num_classes = 4

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 3))
        for layer, shift in ((self.layers[0], 0.5), (self.layers[2], -0.5)):
            layer.weight.data.fill_(1 / layer.weight[0].numel())
            layer.bias.data.fill_(shift)
        self.layers[2].weight.data *= torch.linspace(0.7, 1.0, 4)[:, None, None, None]

    def forward(self, x):
        return self.layers(x).mean((2, 3))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files by their precision."""
    images = [np.full((8, 8, 3), level, np.uint8) for level in (0, 40, 255)]
    options = {"other_precisions": ["int8", "int8_symmetric"], "calibrate": images, "decide": False}
    done = export.export(Bright().eval(), tmp_path_factory.mktemp("int8") / "net", ["onnx"], **options)
    return {file.metadata["precision"]: file.path for file in done}


def quantized(path):
    """Zero points of maps, types of what is dequantized, and the weights."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(path).graph
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [known[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    fixed = [known.get(node.input[0]) for node in graph.node if node.op_type == "DequantizeLinear"]
    fixed = [array for array in fixed if array is not None]
    return points, {array.dtype.name for array in fixed}, [array for array in fixed if array.dtype == np.int8]


def test_zero_points(files):
    points, types, weights = quantized(files["int8"])
    assert len(points) >= 3
    assert {int(point) for point in points} != {0}
    assert types == {"int8", "int32"}
    symmetric = quantized(files["int8_symmetric"])
    assert {int(point) for point in symmetric[0]} == {0}
    assert symmetric[1] == {"int8"}  # biases stay as they are
    for arrays in (weights, symmetric[2]):
        assert len(arrays) == 2
        assert all(np.abs(array.astype(int)).max() == 64 for array in arrays)


@pytest.mark.parametrize("precision", ["int8", "int8_symmetric"])
def test_sums_do_not_overflow(precision, files):
    """With a CPU's own instructions for int8 as in float32, in which a runtime computes without them."""
    onnxruntime = importlib.import_module("onnxruntime")
    image = np.full((1, 3, 8, 8), 255, np.uint8)
    outputs = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(files[precision], options, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"images": image})[0])
    assert outputs[0].max() > 0.9
    np.testing.assert_allclose(outputs[1], outputs[0], atol=0.02)


def test_both_need_images():
    for name in ("int8", "int8_symmetric"):
        with pytest.raises(InputError, match=f"^{name} needs images like those"):
            precisions.check([name], ["onnx"], None)
