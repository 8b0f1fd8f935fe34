"""Parameter groups and learning-rate schedules, per optimizer step."""

from lk_downstream.optim.groups import LayerDecay, ParameterGroups
from lk_downstream.optim.schedules import Cosine, MultiStep, Poly, WarmupSchedule

__all__ = ["Cosine", "LayerDecay", "MultiStep", "ParameterGroups", "Poly", "WarmupSchedule"]
