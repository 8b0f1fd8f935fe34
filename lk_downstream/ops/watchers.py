"""Who else looks at the operators of a model while it runs: exporters, tracers, transforms of ``torch.func``."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_recorded() -> bool:
    """Whether a program is being written that others run: torch.export, ONNX, a trace."""
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def is_transformed() -> bool:
    """Whether operators have to have a derivative and a batched form for ``torch.func`` or forward-mode AD.

    Operators of ``torch.library`` have neither: the one refuses, and the other takes all tangents to be zero.
    """
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
