"""Optimizers on float16 weights."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

EPS_FLOAT16 = 1e-4  # gradients whose squares float16 takes for 0 are up to 2.4e-4: steps of 2.4 learning rates at most


def raise_eps(optimizer: Optimizer) -> bool:
    """Raise an ``eps`` that float16 weights take for 0 to ``EPS_FLOAT16``; whether there was one."""
    low = [
        group
        for group in optimizer.param_groups
        if any(p.dtype == torch.float16 for p in group["params"])
        and group.get("eps", 1.0) < torch.finfo(torch.float16).smallest_normal
    ]
    for group in low:
        group["eps"] = EPS_FLOAT16
    return bool(low)
