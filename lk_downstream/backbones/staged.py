"""What networks of stages with a downsampling layer in front of each do alike as models of timm."""

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from lk_downstream.backbones.timm_model import new_head


class StagedNetwork(nn.Module):
    """Images (N, in_chans, H, W) -> logits (N, num_classes): base of SLaK and of the steps from ResNet to ConvNeXt.

    A network of this kind sets these attributes, and then calls ``_reset_head``.

    Attributes:
        downsample_layers: one for each stage; the first is the stem.
        stages: :class:`~lk_downstream.backbones.blocks.Blocks`, one for each stage.
        norm: of pooled features in NHWC; ``nn.Identity`` for none.
        feature_info: timm's description of the maps of the stages.
        num_features: channels of the last map.
        drop_rate: dropout before the classifier.
    """

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """Set the initial weights of a layer."""

    def _reset_head(self, num_classes: int, global_pool: str) -> None:
        # An AssertionError is what timm's models raise for it.
        assert SelectAdaptivePool2d(pool_type=global_pool).feat_mult() == 1 or isinstance(self.norm, nn.Identity), (
            f"pooling {global_pool!r} changes the width, which the final norm does not allow"
        )
        self.global_pool, self.head = new_head(self, global_pool, num_classes, flatten=False)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside the 1-D ones (which include every layer scale): none."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Timm's layer groups, from input to output; a downsampling layer goes with the block after it."""
        if coarse:
            return {"stem": r"^downsample_layers\.0", "blocks": r"^(?:stages|downsample_layers)\.(\d+)"}
        blocks = [(r"^downsample_layers\.(\d+)", (0,)), (r"^stages\.(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^downsample_layers\.0", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of blocks in the backward pass."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes`` (0: none), with another pooling if given."""
        self._reset_head(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)
        self.head.apply(self._init_weights)

    def _final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Final map and stage outputs, or only these; see timm's method of this name.

        Args:
            x: images (N, in_chans, H, W).
            indices: stages to return, by number, or the last n, or all.
            norm: without effect, as in timm's ConvNeXt: the final norm acts on pooled features.
            stop_early: do not run what the returned maps do not need.
            output_fmt: only "NCHW".
            intermediates_only: return only the list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, not {output_fmt}")
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = []
        for index, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages)):
            if index <= last or not stop_early:
                x = stage(downsample(x))
                if index in wanted:
                    maps.append(x)
        if intermediates_only:
            return maps
        return x, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove stages after the last wanted one, and the head; see timm's method of this name.

        ``prune_norm`` is without effect, as in timm's ConvNeXt: the final norm acts on pooled features, and goes with
        the head.
        """
        wanted, last = feature_take_indices(len(self.stages), indices)
        shortened = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        self.downsample_layers = self.downsample_layers[: last + 1]
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.norm = nn.Identity()
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> the last stage's map (N, C, floor(H / 32), floor(W / 32)), before the norm."""
        for downsample, stage in zip(self.downsample_layers, self.stages):
            x = stage(downsample(x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map -> logits, or the pooled and normalised features."""
        x = self._final_norm(self.global_pool(x))
        if self.global_pool.pool_type:
            x = x.flatten(1)
        if self.drop_rate > 0:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))
