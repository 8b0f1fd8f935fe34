"""The backbones in mmsegmentation's own configs and Runner.

In a config of mmsegmentation 1.x (or of its continuation)::

    custom_imports = dict(imports=["lk_downstream.integrations.mmseg"])
    model = dict(backbone=dict(type="LargeKernelBackbone", name="slak_tiny", drop_path_rate=0.4), ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from lk_downstream.backbones import create_backbone, formats


@MODELS.register_module()
class LargeKernelBackbone(BaseModule):
    """RepLKNet, SLaK, ConvNeXt or any other pyramid of timm's as a backbone of mmsegmentation.

    The state dict has the authors' names for RepLKNet and SLaK and timm's for ConvNeXt, with ``norm0`` to ``norm3``
    beside them, as in published segmentation files. On load, tensors may have the names of any published format.

    Args:
        name: timm's name of the model.
        weights: What to start from, see :func:`lk_downstream.create_backbone`. mmengine's
            ``init_cfg=dict(type="Pretrained", checkpoint=...)`` works too, without the report and the check of the fit.
        out_indices: Pyramid levels to return: 0, 1, 2, 3 for strides 4, 8, 16, 32.
        drop_path_rate: Stochastic depth.
        grad_checkpointing: Recompute activations in the backward pass, which saves memory and costs time.
        init_cfg: mmengine's.
        **overrides: Further arguments of the timm model, such as ``kernel_size`` of SLaK.

    Attributes:
        channels: Channels of the maps, for ``in_channels`` of the heads.
        mean: For ``mean`` of the ``data_preprocessor`` (RGB, 0 to 255).
        std: Likewise.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
        init_cfg: dict | list | None = None,
        **overrides: Any,
    ):
        super().__init__(init_cfg)
        self.extractor = create_backbone(name, weights, out_indices, drop_path_rate, grad_checkpointing, **overrides)
        self.channels = self.extractor.channels
        self.mean, self.std = (
            tuple(255 * value for value in values) for values in (self.extractor.mean, self.extractor.std)
        )
        self.register_state_dict_post_hook(_to_published_names)
        self.register_load_state_dict_pre_hook(_to_own_names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (N, 3, H, W) -> one map (N, channels[i], H / stride, W / stride) a level."""
        return tuple(self.extractor(x))


def _to_published_names(module: LargeKernelBackbone, state: dict, prefix: str, metadata: dict) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + _published_name(key.removeprefix(prefix))] = state.pop(key)


def _to_own_names(module: LargeKernelBackbone, state: dict, prefix: str, *_: Any) -> None:
    given = {key.removeprefix(prefix): state.pop(key) for key in list(state) if key.startswith(prefix)}
    own = {_published_name(f"extractor.{key}"): f"extractor.{key}" for key in module.extractor.state_dict()}
    if not own.keys() <= given.keys():  # otherwise it is a file of this class, where no name has two meanings
        given = formats.convert(formats.unwrap(given)).network
    for key, value in given.items():
        state[prefix + own.get(key, key)] = value


def _published_name(key: str) -> str:
    return key.removeprefix("extractor.body.").removeprefix("extractor.")
