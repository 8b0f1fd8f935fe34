"""Parameter groups and learning-rate schedules, per optimizer step."""

from lk_downstream.optim.groups import LayerDecay, ParameterGroups, pretrained_names
from lk_downstream.optim.schedules import Cosine, MultiStep, Poly, WarmupSchedule
from lk_downstream.optim.table import groups_table

__all__ = [
    "Cosine",
    "LayerDecay",
    "MultiStep",
    "ParameterGroups",
    "Poly",
    "WarmupSchedule",
    "groups_table",
    "pretrained_names",
]
