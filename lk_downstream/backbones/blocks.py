"""What the families share: the large-kernel convolution with its parallel branches, and sequences of blocks."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch.utils.checkpoint
from torch import Tensor, nn

from lk_downstream.ops import LargeKernelConv2d
from lk_downstream.ops.fusion import BATCH_NORM, fuse_conv_bn, merge_conv_bn


def depthwise_conv(channels: int, kernel_size: int | tuple[int, int], stride: int = 1, **factory: Any) -> nn.Conv2d:
    """A depthwise convolution without bias, padded by half its odd kernel; at stride 1 by this package's operator."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    kind = LargeKernelConv2d if stride == 1 else nn.Conv2d
    padding = (height // 2, width // 2)
    return kind(channels, channels, (height, width), stride, padding, groups=channels, bias=False, **factory)


def conv_bn(conv: nn.Conv2d, act: bool = False) -> nn.Sequential:
    """``conv`` and its batch norm (and a ReLU), named as in both authors' state dicts."""
    norm = nn.BatchNorm2d(conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)
    layers = OrderedDict(conv=conv, bn=norm)
    if act:
        layers["nonlinear"] = nn.ReLU()
    return nn.Sequential(layers)


def is_conv_bn(layers: nn.Module) -> bool:
    """Whether ``layers`` are an ``nn.Sequential`` that begins with a convolution and a foldable batch norm."""
    if not isinstance(layers, nn.Sequential) or type(layers).forward is not nn.Sequential.forward or len(layers) < 2:
        return False
    norm = layers[1]
    return isinstance(layers[0], nn.Conv2d) and isinstance(norm, BATCH_NORM) and norm.running_mean is not None


def fuse_sequence(layers: nn.Module) -> None:
    """Fold the batch norm of what :func:`is_conv_bn` finds, in place; else nothing.

    The norm becomes ``nn.Identity``, as in the authors' ``deep_fuse_BN`` (replknet.py); theirs overlooks synchronised
    batch norms.
    """
    if is_conv_bn(layers):
        fuse_conv_bn(layers[0], layers[1])
        layers[1] = nn.Identity()


class ReparamLargeKernelConv(nn.Module):
    """Sum of parallel depthwise convolution-batch norm branches: (N, C, H, W) -> (N, C, H / stride, W / stride).

    Plain (RepLKNet, replknet.py ``ReparamLargeKernelConv``): ``lkb_origin`` K x K, and ``small_conv`` n x n where
    n < K. Decomposed (SLaK, SLaK.py): ``LoRA1`` K x n (tall), ``LoRA2`` n x K (wide) and ``small_conv`` n x n. The
    names are those of the authors' state dicts.

    Args:
        channels: number of channels C.
        kernel_size: K, odd.
        small_kernel: n, odd; 0 for a single plain branch.
        decomposed: two rectangular branches in place of the square one.
        merged: build the form that :meth:`reparameterize` leaves, to load such weights.
        stride: of all branches.
        **factory: device and dtype of the parameters.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        small_kernel: int,
        decomposed: bool = False,
        merged: bool = False,
        stride: int = 1,
        **factory: Any,
    ):
        super().__init__()
        if kernel_size % 2 == 0 or (small_kernel and small_kernel % 2 == 0):
            raise ValueError(f"kernel sizes must be odd, not {kernel_size} and {small_kernel}")
        if decomposed and not small_kernel:
            raise ValueError("a decomposed kernel needs its short side, the small kernel")
        if decomposed:
            self.LoRA1 = conv_bn(depthwise_conv(channels, (kernel_size, small_kernel), stride, **factory))
            self.LoRA2 = conv_bn(depthwise_conv(channels, (small_kernel, kernel_size), stride, **factory))
        else:
            self.lkb_origin = conv_bn(depthwise_conv(channels, kernel_size, stride, **factory))
        if small_kernel and small_kernel < kernel_size:
            self.small_conv = conv_bn(depthwise_conv(channels, small_kernel, stride, **factory))
        if merged:
            self.reparameterize()

    def forward(self, x: Tensor) -> Tensor:
        """Sum of what the branches, or the merged convolutions, give."""
        out: Tensor | None = None
        for branch in self.children():
            out = branch(x) if out is None else out + branch(x)
        assert out is not None  # for TorchScript, which does not know that there are branches
        return out

    def reparameterize(self, dense: bool = False) -> None:
        """Merge the branches, in place, into convolutions with bias that compute the same in eval mode.

        The plain form becomes the authors' ``lkb_reparam``. A decomposed kernel becomes two rectangular convolutions,
        ``LoRA1_reparam`` (which takes in the small one and all biases) and ``LoRA2_reparam``: 2 K n weights per
        channel.

        Args:
            dense: merge a decomposed kernel into one K x K ``lkb_reparam`` too. That is K / 2n times the weights (5
                times at 51 and 5), and pays only where one large convolution runs faster than two thin ones.
        """
        branches = {name: (branch.conv, branch.bn) for name, branch in self.named_children() if hasattr(branch, "bn")}
        if not branches:
            return
        if "LoRA1" in branches and not dense:
            wide = branches.pop("LoRA2")
            merged = {"LoRA1_reparam": merge_conv_bn(list(branches.values())), "LoRA2_reparam": merge_conv_bn([wide])}
            tall, wide = merged.values()
            tall.bias.data += wide.bias.data
            wide.bias = None
        else:
            merged = {"lkb_reparam": merge_conv_bn(list(branches.values()))}
        for name in list(self._modules):
            delattr(self, name)
        for name, conv in merged.items():
            self.add_module(name, conv)


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, training batch norms of ``module`` normalise by the batch but leave their running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORM) and m.training and m.track_running_stats]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, whose activations are recomputed in the backward pass.

    The second forward pass of a plain checkpoint would update the running statistics of batch norms twice per step.
    Here it does not, so that checkpointed and plain training agree. While compiling, PyTorch itself sees to that.
    """
    if not torch.is_grad_enabled():
        return block(x)
    if torch.compiler.is_compiling():
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
    return torch.utils.checkpoint.checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block))
    )


class Blocks(nn.Sequential):
    """Blocks one after another: (N, C, H, W) -> (N, C, H, W).

    Attributes:
        grad_checkpointing: recompute the activations of each block in the backward pass.
    """

    def __init__(self, *blocks: nn.Module):
        super().__init__(*blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """All blocks."""
        for block in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():  # noqa: SIM108 (as TorchScript takes it)
                x = checkpointed(block, x)
            else:
                x = block(x)
        return x
