"""SLaK as timm models: tiny, small, base and large.

Liu et al., "More ConvNets in the 2020s: Scaling up Kernels Beyond 51x51 using Sparsity", ICLR 2023. The structure and
the state-dict keys are those of models/SLaK.py in the authors' repository (VITA-Group/SLaK, MIT). Its rectangular
convolutions (there a CUDA extension) are plain ones padded by half the kernel; batch norms are plain ones too: a
trainer that wants synchronised ones converts them. Sparsity is a matter of training, not of the model.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from lk_downstream.backbones.blocks import Blocks, ReparamLargeKernelConv
from lk_downstream.backbones.staged import StagedNetwork
from lk_downstream.backbones.timm_model import build, refuse_output_stride
from lk_downstream.ops.fusion import fuse_layer_norm_linear

SIZES = {
    "slak_tiny": {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)},
    "slak_small": {"depths": (3, 3, 27, 3), "dims": (96, 192, 384, 768)},
    "slak_base": {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)},
    "slak_large": {"depths": (3, 3, 27, 3), "dims": (192, 384, 768, 1536)},
    # Trained from scratch in minutes, hence the layer scale of 1.
    "test_slak": {
        "depths": (1, 1, 2, 1),
        "dims": (24, 48, 72, 96),
        "kernel_size": (15, 13, 11, 7, 3),
        "width_factor": 1.0,
        "ls_init_value": 1.0,
    },
}


class SLaKBlock(nn.Module):
    """x + gamma * mlp(norm(large_kernel(x))): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        small_kernel: int,
        decomposed: bool,
        ls_init_value: float,
        drop_path: float,
        merged: bool,
        **factory: Any,
    ):
        super().__init__()
        # Where the small kernel is as large as the large one ("7 7 7 7 100"), the authors build a single plain branch.
        decomposed = decomposed and small_kernel < kernel_size
        small = small_kernel if small_kernel < kernel_size else 0
        self.large_kernel = ReparamLargeKernelConv(dim, kernel_size, small, decomposed, merged, **factory)
        self.norm = nn.LayerNorm(dim, eps=1e-6, **factory)
        self.pwconv1 = nn.Linear(dim, 4 * dim, **factory)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim, **factory)
        self.gamma = nn.Parameter(torch.full((dim,), float(ls_init_value), **factory)) if ls_init_value else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Fold the norm's scale and shift and the layer scale into the linear layers beside them, in place."""
        self.norm = fuse_layer_norm_linear(self.norm, self.pwconv1)
        if self.gamma is not None:
            self.pwconv2.weight.mul_(self.gamma[:, None])
            self.pwconv2.bias.mul_(self.gamma)
            self.gamma = None

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        out = self.large_kernel(x).permute(0, 2, 3, 1)
        out = self.pwconv2(self.act(self.pwconv1(self.norm(out))))
        if self.gamma is not None:
            out = self.gamma * out
        return x + self.drop_path(out.permute(0, 3, 1, 2))


class SLaK(StagedNetwork):
    """SLaK with a classifier: images (N, in_chans, H, W) -> logits (N, num_classes).

    Strided convolutions are not padded, so the maps are floor(H / 4), floor(H / 8), ... high.

    Args:
        num_classes: classes; 0 for pooled features.
        in_chans: input channels.
        global_pool: timm's pooling name; "" for none: unpooled features, or logits for every place of the map.
        depths: blocks of the four stages.
        dims: channels of the four stages before ``width_factor``.
        kernel_size: large kernel of the four stages and, fifth, the small kernel, which is also the short side of the
            rectangles. Released: 51 49 47 13 5; the paper also has 31 29 27 13 5 and 61 59 57 13 5.
        width_factor: channels are int(dims * width_factor); the released models pair 1.3 with a sparsity of 0.4.
        decomposed: two rectangular kernels in place of each large one, as released.
        ls_init_value: initial layer scale, 0 for none; 1e-6 for ImageNet, 1.0 downstream.
        head_init_scale: factor on the classifier's initial weights.
        merged: build the form that reparameterization leaves, to load weights that are merged already.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        output_stride: only 32: there is no dilated form.
        device: of parameters and buffers.
        dtype: likewise.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        kernel_size: Sequence[int] = (51, 49, 47, 13, 5),
        width_factor: float = 1.3,
        decomposed: bool = True,
        ls_init_value: float = 1e-6,
        head_init_scale: float = 1.0,
        merged: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        refuse_output_stride("SLaK", output_stride, 32)
        factory = {"device": device, "dtype": dtype}
        for option, value, count in (("depths", depths, 4), ("dims", dims, 4), ("kernel_size", kernel_size, 5)):
            if len(value) != count:
                raise ValueError(f"{option} needs {count} values, not {tuple(value)}")
        dims = [int(dim * width_factor) for dim in dims]
        self.in_chans = in_chans
        self.num_features = dims[-1]
        self.drop_rate = drop_rate
        norm = partial(LayerNorm2d, eps=1e-6, **factory)
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 4, **factory), norm(dims[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for width, wider in zip(dims, dims[1:]):
            self.downsample_layers.append(nn.Sequential(norm(width), nn.Conv2d(width, wider, 2, 2, **factory)))
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        self.feature_info = []
        for stage, (dim, depth) in enumerate(zip(dims, depths)):
            self.stages.append(
                Blocks(
                    *(
                        SLaKBlock(
                            dim,
                            kernel_size[stage],
                            kernel_size[4],
                            decomposed,
                            ls_init_value,
                            next(rates),
                            merged,
                            **factory,
                        )
                        for _ in range(depth)
                    )
                )
            )
            self.feature_info.append({"num_chs": dim, "reduction": 4 * 2**stage, "module": f"stages.{stage}"})
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6, **factory)
        self._reset_head(num_classes, global_pool)
        self.apply(self._init_weights)
        if num_classes > 0:
            self.head.weight.data.mul_(head_init_scale)
            self.head.bias.data.mul_(head_init_scale)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _cfg(url: str = "", **changes) -> dict:
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "downsample_layers.0.0",
        "classifier": "head",
        "license": "mit",
        "origin_url": "https://github.com/VITA-Group/SLaK",
        "paper_name": "More ConvNets in the 2020s: Scaling up Kernels Beyond 51x51 using Sparsity",
        "paper_ids": "arXiv:2207.03620",
        **changes,
    }


default_cfgs = generate_default_cfgs(
    {
        "slak_tiny.untrained": _cfg(),
        "slak_small.untrained": _cfg(),
        "slak_base.untrained": _cfg(),
        "slak_large.untrained": _cfg(),
        "test_slak.untrained": _cfg(input_size=(3, 160, 160), pool_size=(5, 5)),
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict) -> SLaK:
    return build(SLaK, variant, SIZES[variant], (0, 1, 2, 3), pretrained, kwargs)


@register_model
def slak_tiny(pretrained: bool = False, **kwargs) -> SLaK:
    """SLaK-T, 50.7 M parameters (30.5 M non-zero at a sparsity of 0.4)."""
    return _create("slak_tiny", pretrained, kwargs)


@register_model
def slak_small(pretrained: bool = False, **kwargs) -> SLaK:
    """SLaK-S, 91.1 M parameters (54.8 M non-zero at a sparsity of 0.4)."""
    return _create("slak_small", pretrained, kwargs)


@register_model
def slak_base(pretrained: bool = False, **kwargs) -> SLaK:
    """SLaK-B, 158.0 M parameters (94.9 M non-zero at a sparsity of 0.4)."""
    return _create("slak_base", pretrained, kwargs)


@register_model
def slak_large(pretrained: bool = False, **kwargs) -> SLaK:
    """SLaK-L, 346.6 M parameters; no weights were released."""
    return _create("slak_large", pretrained, kwargs)


@register_model
def test_slak(pretrained: bool = False, **kwargs) -> SLaK:  # noqa: PT028 (a model, not a test)
    """A tiny SLaK for tests and demonstrations on a CPU."""
    return _create("test_slak", pretrained, kwargs)
