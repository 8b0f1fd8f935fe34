"""The layers with weights in an ONNX graph: what other precisions are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def layers(graph: GraphProto) -> list[NodeProto]:
    """Convolutions and products with weights; not the products by which images are resized, whose factors are
    computed.
    """
    weights = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type in LAYERS and node.input[1] in weights]
