"""Learning-rate schedules with a warm-up, counted in optimizer steps.

A schedule is made from an optimizer and the number of optimizer steps of the whole run; it multiplies the learning rate
of each parameter group, so that factors between groups (layer-wise decay) are kept.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


class WarmupSchedule(LambdaLR):
    """A decay, given by a subclass, times a linear warm-up.

    The factor of step i < ``warmup_steps`` is ``decay(i) * (1 - (1 - i / warmup_steps) * (1 - warmup_ratio))``.

    Args:
        optimizer: The optimizer.
        max_steps: Optimizer steps of the whole run.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: Factor at step 0.
    """

    def __init__(self, optimizer: Optimizer, max_steps: int, warmup_steps: int = 0, warmup_ratio: float = 1e-6):
        self.max_steps = max(max_steps, 1)
        self.warmup_steps = warmup_steps
        self.warmup_ratio = warmup_ratio
        super().__init__(optimizer, self.factor)

    def decay(self, step: int) -> float:
        """The factor at optimizer step ``step`` without the warm-up."""
        raise NotImplementedError

    def factor(self, step: int) -> float:
        """The factor at optimizer step ``step``."""
        return self.decay(step) * (self.warmup(step) if step < self.warmup_steps else 1.0)

    def warmup(self, step: int) -> float:
        """The warm-up's factor at optimizer step ``step`` < ``warmup_steps``."""
        return 1 - (1 - step / self.warmup_steps) * (1 - self.warmup_ratio)


class Poly(WarmupSchedule):
    """``(1 - step / max_steps) ** power``, the schedule of the segmentation recipes.

    Args:
        optimizer: The optimizer.
        max_steps: Optimizer steps of the whole run.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: Factor at step 0.
        power: Exponent.
        min_ratio: Factor at the end.
        form: ``mmcv``: the decay runs from step 0, times the warm-up (mmsegmentation 0.x and the published results).
            ``mmengine``: the decay begins where the warm-up ends, and each ends one step early (mmsegmentation 1.x).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_steps: int,
        warmup_steps: int = 0,
        warmup_ratio: float = 1e-6,
        power: float = 1.0,
        min_ratio: float = 0.0,
        form: Literal["mmcv", "mmengine"] = "mmcv",
    ):
        self.power = power
        self.min_ratio = min_ratio
        self.form = form
        super().__init__(optimizer, max_steps, warmup_steps, warmup_ratio)

    def decay(self, step: int) -> float:
        """The factor at optimizer step ``step`` without the warm-up."""
        done = step / self.max_steps
        if self.form == "mmengine":
            done = (step - self.warmup_steps) / max(self.max_steps - self.warmup_steps - 1, 1)
        return (1 - self.min_ratio) * (1 - min(max(done, 0.0), 1.0)) ** self.power + self.min_ratio

    def warmup(self, step: int) -> float:
        """The warm-up's factor at optimizer step ``step`` < ``warmup_steps``."""
        last = self.warmup_steps - (self.form == "mmengine")
        return 1 - max(1 - step / last, 0.0) * (1 - self.warmup_ratio) if last > 0 else 1.0


class Cosine(WarmupSchedule):
    """Half a cosine after the warm-up, the schedule of the ImageNet recipes.

    Args:
        optimizer: The optimizer.
        max_steps: Optimizer steps of the whole run.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: Factor at step 0.
        min_ratio: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_steps: int,
        warmup_steps: int = 0,
        warmup_ratio: float = 0.0,
        min_ratio: float = 0.0,
    ):
        self.min_ratio = min_ratio
        super().__init__(optimizer, max_steps, warmup_steps, warmup_ratio)

    def warmup(self, step: int) -> float:
        """The warm-up's factor; its last step has the full rate, as numpy's linspace gives it in the authors' code."""
        return 1 - (1 - step / max(self.warmup_steps - 1, 1)) * (1 - self.warmup_ratio)

    def decay(self, step: int) -> float:
        """The factor at optimizer step ``step`` without the warm-up."""
        done = (step - self.warmup_steps) / max(self.max_steps - self.warmup_steps, 1)
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2


class MultiStep(WarmupSchedule):
    """A factor ``gamma`` at each milestone, the schedule of the detection recipes.

    Args:
        optimizer: The optimizer.
        max_steps: Optimizer steps of the whole run.
        milestones: Fractions of ``max_steps`` at which the rate falls, such as 27/36 and 33/36 in a run of 36 epochs.
        gamma: Factor of each fall.
        warmup_steps: Optimizer steps of the warm-up.
        warmup_ratio: Factor at step 0.
        warmup_form: ``linear``: the factor rises to 1 (mmcv's linear warm-up); ``constant``: it stays (mmcv's constant
            one, as in FCOS's recipe).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_steps: int,
        milestones: Sequence[float] = (0.75, 11 / 12),
        gamma: float = 0.1,
        warmup_steps: int = 0,
        warmup_ratio: float = 1e-3,
        warmup_form: Literal["linear", "constant"] = "linear",
    ):
        self.milestones = [round(milestone * max_steps) for milestone in milestones]
        self.gamma = gamma
        self.warmup_form = warmup_form
        super().__init__(optimizer, max_steps, warmup_steps, warmup_ratio)

    def decay(self, step: int) -> float:
        """The factor at optimizer step ``step`` without the warm-up."""
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)

    def warmup(self, step: int) -> float:
        """The warm-up's factor at optimizer step ``step`` < ``warmup_steps``."""
        return self.warmup_ratio if self.warmup_form == "constant" else super().warmup(step)


def catch_up(schedule: LRScheduler, step: int) -> None:
    """Bring a new schedule to an optimizer step, as if it had been there from the begin."""
    if isinstance(schedule, WarmupSchedule):
        schedule.last_epoch = max(step - 1, schedule.last_epoch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step has been made
        while schedule.last_epoch < step:
            schedule.step()
