"""Large kernels in the runtimes of exported files beside this package's operator, in one run."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lk_downstream.errors import InputError
from lk_downstream.export.kernels import pad_before
from lk_downstream.ops import depthwise_conv2d

RUNTIMES = ("onnxruntime", "openvino")


def kernels(
    channels: int, sizes: Sequence[int], kernels: Sequence[int], batch: int = 1, rounds: int = 5
) -> list[dict[str, Any]]:
    """Median times of one depthwise convolution, of the processor, in milliseconds.

    Returns:
        For each size and kernel a row: ``ours``, and of each runtime that is installed its own padding and, as
        ``_padded``, that of a step before; ``error``, the largest difference from float64.

    Raises:
        InputError: no runtime is installed.
    """
    found = [name for name in RUNTIMES if importlib.util.find_spec(name) and importlib.util.find_spec("onnx")]
    if not found:
        raise InputError("no runtime is installed: pip install 'lk_downstream[export,openvino]'")
    rows = []
    for size in sizes:
        for kernel in kernels:
            x = torch.randn(batch, channels, size, size)
            weight = torch.randn(channels, 1, kernel, kernel) / kernel
            exact = F.conv2d(x.double(), weight.double(), padding=kernel // 2, groups=channels)
            sides: dict[str, Callable[[], Tensor]] = {"ours": lambda x=x, weight=weight: depthwise_conv2d(x, weight)}
            with tempfile.TemporaryDirectory() as folder:
                for padded in (False, True):
                    path = Path(folder) / f"{padded}.onnx"
                    _write(path, weight, padded)
                    for name in found:
                        sides[name + "_padded" * padded] = _runner(name, path, x)
            with torch.no_grad():
                error = max((run() - exact).abs().max().item() for run in sides.values())
                times = {name: _median(run, rounds) for name, run in sides.items()}
            rows.append({"map": size, "kernel": kernel, **times, "error": error})
    return rows


def _write(path: Path, weight: Tensor, padded: bool) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    channels, size = weight.shape[0], weight.shape[-2:]
    shape = ["batch", channels, "height", "width"]
    options = {"kernel_shape": list(size), "pads": [side // 2 for side in size] * 2, "group": channels}
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"], **options)]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x", "y")]
    graph = helper.make_graph(nodes, "kernel", ends[:1], ends[1:], [numpy_helper.from_array(weight.numpy(), "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if padded:
        pad_before(model, model.graph.node)
    onnx.save(model, path)


def _runner(name: str, path: Path, x: Tensor) -> Callable[[], Tensor]:
    threads, array = torch.get_num_threads(), x.numpy()
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(session.run(None, {"x": array})[0])
    import openvino

    request = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": str(threads)}).create_infer_request()
    return lambda: torch.from_numpy(request.infer([array])[0].copy())


def _median(run: Callable[[], Tensor], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return 1e3 * sorted(times)[len(times) // 2]
