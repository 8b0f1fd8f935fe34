"""Large-kernel ConvNets for downstream tasks."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lk_downstream.backbones import (
        Backbone,
        Classifier,
        create_backbone,
        create_classifier,
        load_weights,
        reparameterize,
    )
    from lk_downstream.errors import InputError
    from lk_downstream.loading import load

__version__ = "0.1.0"

__all__ = [
    "Backbone",
    "Classifier",
    "InputError",
    "create_backbone",
    "create_classifier",
    "load",
    "load_weights",
    "reparameterize",
]
_ELSEWHERE = {"InputError": "errors", "load": "loading"}  # than in ``backbones``


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'backbones')}"), name)


def _is_command() -> bool:
    """Whether this process is the command line, from the console command, ``python -m`` or a file of ``tools/``."""
    program, here = (sys.argv or [""])[0], Path(__file__).resolve().parent
    if program == "-m":  # Python replaces it after this import
        return not {__name__, f"{__name__}.__main__", f"-m{__name__}"}.isdisjoint(sys.orig_argv)
    return Path(program).stem == "lk-downstream" or Path(program).resolve().parent in (here, here.parent / "tools")


if _is_command():
    # PyTorch is imported later, by what needs it, and reads this then: its threads do not spin where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
else:
    from lk_downstream import backbones  # noqa: F401 (registers the models with timm)
