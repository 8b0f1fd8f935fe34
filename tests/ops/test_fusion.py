import pytest
import torch
from torch import nn

from lk_downstream.ops.fusion import fold_batch_norm, merge_conv_bn, pad_kernel


def branch(kernel: tuple[int, int], norm: type = nn.BatchNorm2d, bias: bool = False):
    conv = nn.Conv2d(6, 6, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=6, bias=bias)
    bn = norm(6)
    generator = torch.Generator().manual_seed(kernel[0])
    for value in (bn.weight, bn.bias, bn.running_mean):
        value.data.copy_(torch.randn(6, generator=generator))
    bn.running_var.copy_(0.1 + torch.rand(6, generator=generator))
    return conv.double().eval(), bn.double().eval()


@pytest.mark.parametrize("bias", [False, True])
def test_one_branch_equals_its_fold(bias):
    conv, bn = branch((5, 3), bias=bias)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    weight, shift = fold_batch_norm(conv, bn)
    folded = nn.functional.conv2d(x, weight, shift, padding=(2, 1), groups=6)
    torch.testing.assert_close(folded, bn(conv(x)), rtol=0, atol=1e-12)


def test_branches_of_any_shape_add_up_in_one_kernel():
    branches = [branch((7, 3)), branch((3, 7)), branch((1, 1))]
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)  # smaller than the kernel
    merged = merge_conv_bn(branches)
    assert merged.kernel_size == (7, 7)
    assert merged.padding == (3, 3)
    torch.testing.assert_close(merged(x), sum(bn(conv(x)) for conv, bn in branches), rtol=0, atol=1e-12)


def test_synchronised_batch_norm_folds_too():
    conv, bn = branch((3, 3), nn.SyncBatchNorm)
    _, plain = branch((3, 3))
    for got, expected in zip(fold_batch_norm(conv, bn), fold_batch_norm(conv, plain)):
        torch.testing.assert_close(got, expected)


def test_fold_keeps_the_dtype_and_rounds_once():
    conv, bn = branch((3, 3))
    exact = fold_batch_norm(conv, bn)[0]
    rounded = fold_batch_norm(conv.float(), bn.float())[0]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-6, atol=0)


def test_what_cannot_be_folded_is_refused():
    conv, _ = branch((3, 3))
    with pytest.raises(TypeError, match="GroupNorm"):
        fold_batch_norm(conv, nn.GroupNorm(2, 6))
    with pytest.raises(TypeError, match="running statistics"):
        fold_batch_norm(conv, nn.BatchNorm2d(6, track_running_stats=False))


@pytest.mark.parametrize("size", [(4, 4), (3, 1)])
def test_kernels_are_only_padded_about_their_centre(size):
    with pytest.raises(ValueError, match="centred"):
        pad_kernel(torch.zeros(1, 1, 3, 3), size)
