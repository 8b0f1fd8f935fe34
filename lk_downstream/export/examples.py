"""Five lines of Python that run an exported file without this package."""

from __future__ import annotations

from pathlib import Path

ONNX = """import numpy, onnxruntime, PIL.Image
image = numpy.asarray(PIL.Image.open({image!r}).convert("RGB")).transpose(2, 0, 1)[None]
session = onnxruntime.InferenceSession({path!r})
outputs = dict(zip({names!r}, session.run(None, {{"images": image}})))
print({{name: values.shape for name, values in outputs.items()}})"""
PROGRAM = """import torch, torchvision
image = torchvision.io.decode_image({image!r}, mode="RGB")[None]
program = torch.export.load({path!r}).module()
outputs = program(image)
print(outputs)"""
EXAMPLES = {".onnx": ONNX, ".pt2": PROGRAM}


def example(path: Path, names: tuple[str, ...], image: str = "photo.jpg") -> str:
    """The lines for a file with outputs of these names; of an image file in RGB."""
    return EXAMPLES[path.suffix].format(path=path.as_posix(), names=list(names), image=image)
