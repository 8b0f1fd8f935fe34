"""An ONNX file in float32 written in other precisions, which round: how much they change is said, not bounded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lk_downstream.errors import InputError, near_names
from lk_downstream.export import metadata
from lk_downstream.export.half import to_float16
from lk_downstream.export.integers import to_int8
from lk_downstream.export.networks import Network
from lk_downstream.inference.inputs import read_images
from lk_downstream.inference.preparation import PREPARATIONS

Images = Callable[[], Iterable[Tensor]]  # reads them anew each time


def _float16(source: Path, output: Path, images: Images | None, external_data: bool) -> None:
    import onnx

    model = onnx.load(source)
    to_float16(model)
    onnx.save(model, output, save_as_external_data=external_data, location=f"{output.name}.data")


def _int8(source: Path, output: Path, images: Images | None, external_data: bool, symmetric: bool = False) -> None:
    to_int8(source, output, images(), external_data, symmetric)


# By their names: what writes the file from one in float32.
PRECISIONS: dict[str, Callable[[Path, Path, Images | None, bool], None]] = {
    "float16": _float16,
    "int8": _int8,
    "int8_symmetric": functools.partial(_int8, symmetric=True),
}


def check(precisions: Sequence[str], formats: Sequence[str], calibrate: Any) -> None:
    """Refuse what cannot be written.

    Raises:
        InputError: A precision is unknown, there is no ONNX file, or int8 has no images.
    """
    for name in precisions:
        if name not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InputError(f"precision {name!r} is none of {known}{near_names(name, PRECISIONS)}; choose one")
    if precisions and "onnx" not in formats:
        raise InputError(f"{' and '.join(precisions)} are precisions of ONNX files: add onnx to the formats")
    integers = [name for name in precisions if name.startswith("int8")]
    if integers and calibrate is None:
        raise InputError(
            f"{integers[0]} needs images like those to be predicted on, which show the range of each map: give a "
            "folder of a hundred or more as --calibrate FOLDER"
        )


def write(
    precision: str, source: Path, output: Path, images: Images | None, texts: Mapping[str, Any], external_data: bool
) -> None:
    """Write a file in another precision.

    Args:
        precision: One of :data:`PRECISIONS`.
        source: The file in float32.
        output: The new one.
        images: For the calibration.
        texts: What the file says of itself.
        external_data: Whether the weights get a file of their own.
    """
    import onnx

    PRECISIONS[precision](source, output, images, external_data)
    model = onnx.load(output, load_external_data=False)
    onnx.helper.set_model_props(model, metadata.to_texts(texts))
    onnx.save(model, output)
    onnx.checker.check_model(output)


def calibration(
    given: Any, network: Network, classes: Sequence[str], value_range: Any = None, multiple: int = 1
) -> Images:
    """Images, as a prediction gives them to the file, each uint8 (1, C, H, W).

    Args:
        given: See :func:`lk_downstream.inference.inputs.read_images`.
        network: What is exported.
        classes: Their names.
        value_range: Of files with more than 8 bits.
        multiple: Of heights and widths, to which images are cut where the file does not resize.

    Raises:
        InputError: There is no image; also on the way, if one cannot be read.
    """
    if isinstance(given, Iterator):  # which could be read once
        given = list(given)
    settings = {**network.settings, "value_range": value_range, "inside": network.inside.resize}
    preparation = PREPARATIONS[network.kind](classes, settings)

    def images() -> Iterable[Tensor]:
        for each in read_images(given, network.channels, value_range=preparation.value_range).images:
            image = preparation.sample(each)["image"].as_subclass(Tensor)
            if not network.inside.resize:
                height, width = (side // multiple * multiple for side in image.shape[-2:])
                image = image[..., :height, :width]
            yield image[None].contiguous()

    if not list(itertools.islice(images(), 1)):
        raise InputError("there is no image to calibrate with: give a folder of images as --calibrate FOLDER")
    return images
