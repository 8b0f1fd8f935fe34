"""timm's operations of RandAugment and AutoAugment on arrays, in less time than on Pillow's images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image
from timm.data import auto_augment as timms
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment

from lk_downstream.data import warps

Operation = Callable[..., Any]


def operations(step: Any) -> Iterator[AugmentOp]:
    """Those that a step of timm's transforms draws from; none of a step of another kind."""
    yield from getattr(step, "ops", ())
    for group in getattr(step, "policy", ()):
        yield from group


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, whose strongest, which leaves no bit, gives a black image, as it did in the papers.

    Newer releases of Pillow refuse to leave less than one bit, which would end a training by chance.
    """
    return timms.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def use_arrays(steps: Sequence[Any]) -> bool:
    """Let steps take and give uint8 (H, W, 3) in place of Pillow's images, by the same draws, if all of them can.

    Shears and translations, which have to be bicubic, differ by at most one of 255 levels, see
    :func:`lk_downstream.data.warps.slide`; all else is exact.
    """
    if not all(isinstance(step, (RandAugment, AutoAugment)) for step in steps):
        return False
    for step in steps:
        for operation in operations(step):
            operation.aug_fn = _of_arrays(operation.aug_fn)
        if isinstance(step, RandAugment):  # NumPy, which chooses from them, would make an array of a list each time
            step.ops = np.array(step.ops, dtype=object)
    return True


def sharpness(image: np.ndarray, factor: float, **_: Any) -> np.ndarray:
    """Move each pixel away from the mean of the 3 x 3 around, in which it counts five times, by ``factor`` - 1.

    Args:
        image: uint8 (H, W, C). The pixels at its edges stay.
        factor: 0 gives the mean, 1 the image.

    Returns:
        uint8 (H, W, C), exactly as by ``ImageEnhance.Sharpness``.
    """
    height, _, step = image.shape
    result = image.copy()
    rows = result.reshape(height, -1)
    middle = rows[1:-1, step:-step]
    sums = rows.astype(np.uint16)
    sums = sums[:-2] + sums[1:-1] + sums[2:]
    sums = sums[:, : -2 * step] + sums[:, step:-step] + sums[:, 2 * step :]
    sums += 4 * middle.astype(np.uint16) + 6
    sums //= 13  # rounded to the nearest; there is no halfway
    values = middle - sums.astype(np.float32)
    values *= np.float32(factor)
    values += sums
    middle[:] = np.clip(values, 0, 255, out=values)
    return result


def _of_arrays(function: Operation) -> Operation:
    if function in _OWN:
        return _OWN[function]
    return partial(_by_table if function in _BY_LEVEL else _by_pillow, function)


def _warped(warp: Operation, image: np.ndarray, amount: float, *, fillcolor: Sequence[int], **_: Any) -> np.ndarray:
    return warp(image, amount, fillcolor)


def _by_table(function: Operation, image: np.ndarray, *amounts: float, **_: Any) -> np.ndarray:
    """What makes of each value another, whatever its place and channel, is done once for each of the 256."""
    return np.asarray(bytearray(image).translate(_table(function, *amounts))).reshape(image.shape)


@lru_cache(1024)
def _table(function: Operation, *amounts: float) -> bytes:
    return function(Image.fromarray(np.arange(256, dtype=np.uint8)[None]), *amounts).tobytes()


def _by_pillow(function: Operation, image: np.ndarray, *amounts: float, **options: Any) -> np.ndarray:
    return np.array(function(Image.fromarray(image), *amounts, **options))


_OWN = {
    timms.sharpness: sharpness,
    timms.shear_x: partial(_warped, warps.shear_x),
    timms.shear_y: partial(_warped, warps.shear_y),
    timms.translate_x_rel: partial(_warped, warps.translate_x),
    timms.translate_y_rel: partial(_warped, warps.translate_y),
}
_BY_LEVEL = {timms.invert, timms.posterize, posterize, timms.solarize, timms.solarize_add, timms.brightness}
