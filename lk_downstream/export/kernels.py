"""Large depthwise kernels in exported files: the same sums in forms that other programs compute faster.

Taps that see nothing but padding are cut off where the size of the maps is known. And onnxruntime takes half to three
quarters of the time for a large depthwise convolution whose padding is a step of its own, on maps about as large as the
kernel and larger, and longer on smaller ones; OpenVINO takes longer on all of them (``lk-downstream benchmark
runtimes``). So this form is an option, and it is chosen by the size of the map that is usual where the kernel stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from lk_downstream.ops.module import supports

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from lk_downstream.export.networks import Network

FEWEST_TAPS = 400  # 20 x 20, from which on padding before pays
SMALLEST_MAP = 0.75  # sides of the map over those of the kernel, likewise

Maps = Sequence[tuple[nn.Conv2d, tuple[int, int]]]


def seen_maps(network: Network, height: int, width: int, fewest: int = 1) -> Maps:
    """The depthwise convolutions in the order of computation, and height and width of the map that each of them sees.

    Args:
        network: what is exported.
        height: of the image that it is shown.
        width: likewise.
        fewest: only those of so many taps.
    """
    found: list[tuple[nn.Conv2d, tuple[int, int]]] = []

    def note(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append((module, tuple(inputs[0].shape[-2:])))

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d) and supports(module)]
    hooks = [module.register_forward_pre_hook(note) for module in convolutions if module.weight[0, 0].numel() >= fewest]
    try:
        if hooks:
            with torch.no_grad():
                network(torch.zeros(1, network.channels, height, width, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def trim(maps: Maps) -> int:
    """Cut off the taps that lie further from the middle than the maps reach, and so see nothing but padding, in place.

    Args:
        maps: see :func:`seen_maps`; of a convolution that is computed several times the largest map counts.

    Returns:
        The number of convolutions that were changed.
    """
    largest: dict[nn.Conv2d, tuple[int, int]] = {}
    for conv, sides in maps:
        largest[conv] = tuple(map(max, sides, largest.get(conv, sides)))
    changed = 0
    for conv, sides in largest.items():
        size = tuple(min(taps, 2 * side - 1) for taps, side in zip(conv.kernel_size, sides))
        if size == conv.kernel_size:
            continue
        top, left = ((taps - kept) // 2 for taps, kept in zip(conv.kernel_size, size))
        weight = conv.weight.detach()[:, :, top : top + size[0], left : left + size[1]]
        conv.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        conv.kernel_size, conv.padding = size, tuple(taps // 2 for taps in size)
        changed += 1
    return changed


def worth_padding(graph: GraphProto, maps: Maps) -> list[NodeProto]:
    """The convolutions of a graph that onnxruntime computes faster where the padding is a step before.

    Args:
        graph: of a network.
        maps: of the same, see :func:`seen_maps`; a convolution that is not among them is not chosen.
    """
    waiting, chosen = list(maps), []
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type != "Conv" or attributes["group"].i == 1:
            continue
        kernel = tuple(attributes["kernel_shape"].ints)
        place = next((i for i, (conv, _) in enumerate(waiting) if tuple(conv.kernel_size) == kernel), None)
        if place is None:
            continue
        _, sides = waiting.pop(place)
        if kernel[0] * kernel[1] >= FEWEST_TAPS and min(sides) >= SMALLEST_MAP * max(kernel):
            chosen.append(node)
    return chosen


def pad_before(model: ModelProto, convolutions: Sequence[NodeProto]) -> None:
    """Give convolutions of a model their padding as a step of its own, in place.

    Args:
        model: of opset 13 to 23.
        convolutions: of two dimensions, with the attribute ``pads``.
    """
    from onnx import helper

    graph, nodes = model.graph, []
    chosen = {node.output[0] for node in convolutions}
    for node in graph.node:
        if node.output[0] in chosen:
            pads = next(attribute.ints for attribute in node.attribute if attribute.name == "pads")
            name = f"{node.output[0]}_padded"
            graph.initializer.append(helper.make_tensor(f"{name}_by", 7, [8], [0, 0, *pads[:2], 0, 0, *pads[2:]]))
            for part, value in (("from", 0), ("to", 2**20), ("axis", 2)):
                graph.initializer.append(helper.make_tensor(f"{name}_{part}", 7, [1], [value]))
            nodes.append(helper.make_node("Pad", [node.input[0], f"{name}_by"], [f"{name}_wide"], name=f"{name}_pad"))
            # Takes all of it; without it onnxruntime would put the padding back.
            taken = [f"{name}_wide", f"{name}_from", f"{name}_to", f"{name}_axis"]
            nodes.append(helper.make_node("Slice", taken, [name], name=f"{name}_slice"))
            node.input[0] = name
            pads[:] = [0, 0, 0, 0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
