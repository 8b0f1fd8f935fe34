"""Configs that differ in sizes alone, of which the tests run one."""

from collections.abc import Iterable
from typing import Any

FAMILIES = ("convnext_isotropic", "convnext", "replknet", "slak")


def one_of_each_kind(configs: dict[str, dict[str, Any]], stems: Iterable[str]) -> list[str]:
    """The first of the ``stems`` whose configs differ in nothing but the sizes of numbers and of the backbone.

    With a narrow network and few steps their runs would be the same to the line; what differs is what the tests of
    the published recipes look at.
    """
    kinds: dict[Any, str] = {}
    for stem in stems:
        kinds.setdefault(_kind(configs[stem]), stem)
    return list(kinds.values())


def _kind(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return tuple((name, _kind(item, name)) for name, item in sorted(value.items()))
    if isinstance(value, list):
        return tuple(_kind(item) for item in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "zero" if value == 0 else "number"
    if key == "name":
        return next((family for family in FAMILIES if value.startswith(family)), value)
    return value is None if key == "weights" else value
