"""ONNX files whose layers compute in float16, and all that surrounds them in float32.

``onnxruntime.transformers.float16`` rounds every value of a graph to float16 and back, also those between operators
that are to stay in float32; but coordinates of pixels above 2048 are no such numbers. Here what is outside the network
stays as it is: the resize, normalisation, norms of the maps, softmax, box decoding and non-maximum suppression.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lk_downstream.export.graphs import layers

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

# Between two layers in float16 these are, too: they neither sum over maps nor enlarge numbers much.
BETWEEN = ("Add", "Clip", "Concat", "Gelu", "HardSwish", "MaxPool", "Mul", "Relu", "Reshape", "Sigmoid", "Transpose")
SHAPED = ("Reshape",)  # by a second input
LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: ModelProto) -> None:
    """Let the layers of a model, and what lies between them, compute in float16; inputs and outputs stay as they are.

    Weights beyond the range of float16 become its largest number.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    halves = _halves(model)
    made = {output for node in halves.values() for output in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if _is_number(node)}
    used = {name for node in graph.node if id(node) not in halves for name in node.input}
    used.update(output.name for output in graph.output)
    nodes: list[NodeProto] = []
    cast: dict[str, str] = {}

    def as_half(name: str) -> str:
        if name not in cast:
            cast[name] = f"{name}_float16"
            if name in weights or name in constants:
                graph.initializer.append(_rounded(weights.get(name) or constants[name], cast[name]))
            else:
                nodes.append(
                    helper.make_node("Cast", [name], [cast[name]], f"{name}_to_float16", to=TensorProto.FLOAT16)
                )
        return cast[name]

    for node in graph.node:
        if id(node) not in halves:
            nodes.append(node)
            continue
        for index in _maps(node):
            node.input[index] = (
                f"{node.input[index]}_float16" if node.input[index] in made else as_half(node.input[index])
            )
        outputs = list(node.output)
        for index, name in enumerate(outputs):
            node.output[index] = f"{name}_float16"
        nodes.append(node)
        for name in used.intersection(outputs):
            nodes.append(
                helper.make_node("Cast", [f"{name}_float16"], [name], f"{name}_to_float32", to=TensorProto.FLOAT)
            )
    needed = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in (("node", nodes), ("initializer", kept)):
        values = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.ClearField("value_info")  # whose types were those of float32


def _halves(model: ModelProto) -> dict[int, NodeProto]:
    """The nodes that compute in float16, by their identity."""
    graph = model.graph
    found = {id(node): node for node in layers(graph)}
    fixed = {tensor.name for tensor in graph.initializer} | {node.output[0] for node in graph.node if _is_number(node)}
    made = {output for node in found.values() for output in node.output}
    for node in graph.node:  # in the order of computation
        inputs = [node.input[index] for index in _maps(node) if node.input[index] not in fixed]
        if node.op_type in BETWEEN and inputs and made.issuperset(inputs):
            found[id(node)] = node
            made.update(node.output)
    seeds = {id(node) for node in layers(graph)}
    wanted: set[str] = set()
    for node in reversed(graph.node):  # what leads to no layer is a result, and these stay in float32
        if id(node) in found and id(node) not in seeds and wanted.isdisjoint(node.output):
            del found[id(node)]
        if id(node) in found:
            wanted.update(node.input)
    return found


def _maps(node: NodeProto) -> list[int]:
    """Which inputs are of the type of the maps."""
    return [0] if node.op_type in SHAPED else [index for index, name in enumerate(node.input) if name]


def _is_number(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"


def _rounded(tensor: TensorProto, name: str) -> TensorProto:
    from onnx import numpy_helper

    values = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST).astype(np.float16)
    return numpy_helper.from_array(values, name)
