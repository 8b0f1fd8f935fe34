"""Large depthwise kernels in ONNX files for onnxruntime: the same sums in the form that it computes faster.

onnxruntime takes half to three quarters of the time for a large depthwise convolution whose padding is a step of its
own, on maps about as large as the kernel and larger, and longer on smaller ones; OpenVINO takes longer on all of them
(``lk-downstream benchmark runtimes``). So this form is an option, and it is chosen by the size of the map that is usual
where the kernel stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lk_downstream.ops import LargeKernelConv2d

if TYPE_CHECKING:
    import onnx

FEWEST_TAPS = 400  # 20 x 20, from which on it pays
SMALLEST_MAP = 0.75  # sides of the map over those of the kernel, likewise


def usual_maps(network: nn.Module, height: int, width: int) -> list[tuple[tuple[int, ...], int]]:
    """Of each large kernel in the order of computation its size, and the shorter side of the map that it sees.

    Args:
        network: what is exported.
        height: of the image that it is shown.
        width: likewise.
    """
    found: list[tuple[tuple[int, ...], int]] = []

    def note(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append((tuple(module.kernel_size), min(inputs[0].shape[-2:])))

    large = [module for module in network.modules() if isinstance(module, LargeKernelConv2d)]
    if all(module.weight[0, 0].numel() < FEWEST_TAPS for module in large):
        return []
    images = torch.zeros(1, network.channels, height, width, dtype=torch.uint8)
    hooks = [module.register_forward_pre_hook(note) for module in large]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def pad_before(model: onnx.ModelProto, maps: list[tuple[tuple[int, ...], int]]) -> int:
    """Give the large depthwise convolutions of a model, where it pays, their padding as a step of its own, in place.

    Args:
        model: of opset 13 to 23.
        maps: see :func:`usual_maps`; where a convolution is not among them, its form stays.

    Returns:
        The number of convolutions that were changed.
    """
    from onnx import helper

    waiting, nodes, changed = list(maps), [], 0
    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        kernel = tuple(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else ()
        pads = tuple(attributes["pads"].ints) if "pads" in attributes else ()
        place = next((i for i, (size, _) in enumerate(waiting) if size == kernel), None)
        if node.op_type != "Conv" or attributes["group"].i == 1 or place is None:
            nodes.append(node)
            continue
        _, side = waiting.pop(place)
        if kernel[0] * kernel[-1] < FEWEST_TAPS or side < SMALLEST_MAP * max(kernel) or not any(pads):
            nodes.append(node)
            continue
        changed += 1
        name = f"{node.input[0]}_padded_{changed}"
        values = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        model.graph.initializer.append(helper.make_tensor(f"{name}_by", 7, [8], values))
        for part, value in (("from", 0), ("to", 2**20), ("axis", 2)):
            model.graph.initializer.append(helper.make_tensor(f"{name}_{part}", 7, [1], [value]))
        nodes.append(helper.make_node("Pad", [node.input[0], f"{name}_by"], [f"{name}_wide"], name=f"{name}_pad"))
        # Takes all of it; without it onnxruntime would put the padding back.
        taken = [f"{name}_wide", f"{name}_from", f"{name}_to", f"{name}_axis"]
        nodes.append(helper.make_node("Slice", taken, [name], name=f"{name}_slice"))
        node.input[0] = name
        attributes["pads"].ints[:] = [0, 0, 0, 0]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed
