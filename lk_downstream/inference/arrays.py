"""Tensors as NumPy's arrays, for what is drawn and written."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def array(tensor: Tensor) -> np.ndarray:
    """A tensor of any device and kind as plain numbers; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu().as_subclass(Tensor)
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def shown(image: Tensor) -> np.ndarray:
    """An image uint8 (C, H, W) as it is drawn, (H, W, 3): its first three channels, or of fewer the first as grey."""
    return array(image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)).transpose(1, 2, 0)
