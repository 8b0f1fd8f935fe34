"""What cannot train under ``--trainer.deterministic true``, said at the start."""

from __future__ import annotations

import torch
from torch import nn

from lk_downstream.errors import InputError

# Of the list in the documentation of `torch.use_deterministic_algorithms`, what is used as a module.
REFUSING = (
    nn.AvgPool3d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MaxUnpool1d,
    nn.MaxUnpool2d,
    nn.MaxUnpool3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.NLLLoss,
    nn.CrossEntropyLoss,
    nn.CTCLoss,
)


def refuse_unrepeatable(model: nn.Module, device: torch.device) -> None:
    """Name the first module that PyTorch would refuse in the first backward pass of a reproducible run on a GPU.

    Raises:
        InputError: there is one, the device is a GPU, and ``torch.use_deterministic_algorithms`` is on and not to warn
            only.
    """
    strict = torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cpu" or not strict:
        return
    for name, module in model.named_modules():
        # To one cell it is a mean, which can be repeated.
        single = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
        if isinstance(module, REFUSING) and not single:
            raise InputError(
                f"--trainer.deterministic true: PyTorch has no reproducible {type(module).__name__} for GPUs, which is "
                f"{name} of the model: choose another head or loss, or set --trainer.deterministic warn"
            )
