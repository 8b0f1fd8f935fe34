"""The effective receptive field as the authors of RepLKNet measure it.

Ding et al., CVPR 2022, section 4.1 and appendix; erf/visualize_erf.py and analyze_erf.py of DingXiaoH/RepLKNet-pytorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lk_downstream.backbones import Backbone, Classifier
from lk_downstream.errors import InputError
from lk_downstream.tasks.channels import of_channels

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)  # of the paper's Table 10
SIDE = 1024  # pixels of the images that the authors measure on


@dataclass(frozen=True)
class Field:
    """The effective receptive field of the centre of a map.

    Attributes:
        model: name, as given.
        stride: of the map; that of the last stage is mostly 32.
        images: how many counted.
        gradient: float64 (side, side), what each pixel adds to the centre, a mean over the images.
        ratios: share of the image's area that the smallest centred square has in which a share of the gradient lies, by
            this share, see :func:`area_ratios`.
    """

    model: str
    stride: int
    images: int
    gradient: np.ndarray
    ratios: dict[float, float]


def scaled(gradient: np.ndarray) -> np.ndarray:
    """The field as it is drawn and measured: ``log10(gradient + 1)`` over its maximum, in 0..1."""
    logarithm = np.log10(gradient + 1)
    return logarithm / logarithm.max()


def area_ratios(gradient: np.ndarray, thresholds: Iterable[float] = THRESHOLDS) -> dict[float, float]:
    """Share of the area of the smallest centred square in which more than a share of the scaled gradient lies.

    Squares have odd sides from 3 on, around pixel (side // 2, side // 2); 1 where none is large enough.

    Args:
        gradient: of :class:`Field`, (side, side), not all 0.
        thresholds: the shares, in 0..1.
    """
    field = scaled(gradient)
    side, centre = len(field), len(field) // 2
    sums = np.pad(field, ((1, 0), (1, 0))).cumsum(0).cumsum(1)  # of all rectangles from the first pixel on
    reach = np.arange(1, centre)
    first, end = centre - reach, centre + reach + 1
    within = sums[end, end] - sums[first, end] - sums[end, first] + sums[first, first]
    ratios = {}
    for threshold in thresholds:
        enough = np.flatnonzero(within > threshold * sums[-1, -1])
        ratios[threshold] = float((2 * reach[enough[0]] + 1) / side) ** 2 if len(enough) else 1.0
    return ratios


def receptive_field(
    name: str,
    model: Backbone | Classifier,
    images: Iterable[Tensor],
    stages: bool = False,
    device: torch.device | str = "cpu",
) -> list[Field]:
    """The effective receptive field of the last map of a network, or of the map of each stage, finest first.

    The rectified outputs of all channels at the centre of the map are summed; the field is the rectified gradient of
    that sum by the input, summed over channels of the input. Images whose gradient is not finite are left out.

    Args:
        name: to show.
        model: an extractor, whose maps are taken before the norms that it adds, or a classifier. It is put in eval mode
            and on the device.
        images: uint8 (C, side, side), all of one size, with as many channels as the model takes, or RGB.
        stages: of the map of every stage.
        device: to compute on.

    Raises:
        InputError: there are no images, none counts, or the model has no maps.
    """
    model = model.eval().requires_grad_(False).to(device)
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (model.mean, model.std))
    total: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    for image in images:
        pixels = of_channels(image[None].to(device) / 255, len(model.mean))
        for stride, gradient in _gradients(model, (pixels - mean) / std, stages):
            finite = bool(np.isfinite(gradient).all())
            total[stride] = total.get(stride, 0) + (gradient if finite else np.zeros_like(gradient))
            counts[stride] = counts.get(stride, 0) + finite
    if not total:
        raise InputError("there are no images to measure a receptive field on: give --images, or a count of at least 1")
    fields = []
    for stride, gradient in total.items():
        if not counts[stride] or not gradient.any():
            raise InputError(
                f"{name}: the gradient at stride {stride} is 0 or not finite for every image, so that there is no "
                "field: give other images or weights"
            )
        mean_gradient = gradient / counts[stride]
        fields.append(Field(name, stride, counts[stride], mean_gradient, area_ratios(mean_gradient)))
    return fields


def _gradients(model: Backbone | Classifier, x: Tensor, stages: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Stride and gradient, (side, side), of each map, or of the last."""
    x = x.requires_grad_(True)
    maps = stage_maps(model, x)
    maps = maps if stages else maps[-1:]
    for number, (stride, values) in enumerate(maps):
        centre = values[:, :, values.shape[2] // 2, values.shape[3] // 2].relu().sum()
        (gradient,) = torch.autograd.grad(centre, x, retain_graph=number + 1 < len(maps))
        yield stride, gradient.relu().sum((0, 1)).cpu().double().numpy()


def stage_maps(model: Backbone | Classifier, x: Tensor) -> list[tuple[int, Tensor]]:
    """Strides and maps (N, C, H / stride, W / stride) of the stages of a network, finest first, without added norms.

    Raises:
        InputError: what the network computes has no height and width.
    """
    body = model.body
    if not hasattr(body, "forward_intermediates"):
        maps = model(x) if isinstance(model, Backbone) else [body.forward_features(x)]
    else:
        if isinstance(model, Backbone):
            indices = model.indices
        else:  # the last map at each stride
            info = body.feature_info
            indices = sorted({info[index]["reduction"]: index for index in range(len(info))}.values())
        maps = body.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
    if odd := [item for item in maps if item.ndim != 4]:
        raise InputError(
            f"{model.name} gives {tuple(odd[0].shape)} and no maps: take a network that keeps height and width"
        )
    return [(round(x.shape[-1] / item.shape[-1]), item) for item in maps]


def squared(image: Tensor, side: int) -> Tensor:
    """An image uint8 (3, H, W) as (3, side, side), whatever its shape: Pillow's bicubic resize, as the authors do."""
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(pixels.resize((side, side), Image.Resampling.BICUBIC))).permute(2, 0, 1)


def noise(count: int, side: int, channels: int = 3) -> Iterator[Tensor]:
    """Images of uniform noise, uint8 (channels, side, side), the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(0, 256, (channels, side, side), dtype=torch.uint8, generator=generator)
