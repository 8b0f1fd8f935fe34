"""ONNX files whose layers compute in int8, with ranges that images have shown."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from lk_downstream.export.graphs import layers


def to_int8(
    source: Path, output: Path, images: Iterable[Tensor], external_data: bool = False, symmetric: bool = False
) -> None:
    """Write a file with int8 weights, a scale for each channel, and int8 maps between the smallest and the largest
    values of the images.

    Convolutions and products with weights are quantized, large depthwise kernels too; all else stays in float32.
    Weights have 7 of the 8 bits: a CPU with AVX2 or AVX-512 but no VNNI adds two products in 16 bits, which 8 would
    overflow (onnxruntime, "Quantize ONNX models", on U8S8).

    Args:
        source: the file in float32.
        output: the new one.
        images: each uint8 (1, C, H, W), of any size.
        external_data: whether the weights get a file of their own.
        symmetric: let all zero points be 0 and biases stay in float32, as TensorRT asks for, at the cost of half the
            range of maps without negative values.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(source, load_external_data=False).graph.input[0].name
    prepared = output.with_suffix(".prepared")
    # Not its optimization, which would fix what makes the sizes free; runtimes optimize when they open a file.
    quant_pre_process(
        source, prepared, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=external_data
    )
    nodes = [node.name for node in layers(onnx.load(prepared, load_external_data=False).graph)]
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # it advises what is done here already
    try:
        quantization.quantize_static(
            prepared,
            output,
            _reader(quantization.CalibrationDataReader, name, images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=external_data,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )
    finally:
        logger.setLevel(level)
        for left in output.parent.glob(f"{prepared.name}*"):
            left.unlink()


def _reader(base: type, name: str, images: Iterable[Tensor]) -> object:
    class Reader(base):
        """One image after the other."""

        def __init__(self) -> None:
            self.images = iter(images)

        def get_next(self) -> dict | None:
            """The next image as onnxruntime takes it."""
            image = next(self.images, None)
            return None if image is None else {name: image.numpy()}

    return Reader()
