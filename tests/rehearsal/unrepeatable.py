"""Operators that refuse ``torch.use_deterministic_algorithms`` on a CUDA device, as data.

The list is that of its documentation; beside each operator the words by which that names it. Of torchvision, its
sources (``alertNotDeterministic`` in ``csrc/ops/cuda``).
"""

DOCUMENTED = {
    "aten.avg_pool3d_backward": "torch.nn.AvgPool3d",
    "aten._adaptive_avg_pool2d_backward": "torch.nn.AdaptiveAvgPool2d",
    "aten._adaptive_avg_pool3d_backward": "torch.nn.AdaptiveAvgPool3d",
    "aten.adaptive_max_pool2d_backward": "torch.nn.AdaptiveMaxPool2d",
    "aten.fractional_max_pool2d_backward": "torch.nn.FractionalMaxPool2d",
    "aten.fractional_max_pool3d_backward": "torch.nn.FractionalMaxPool3d",
    "aten.max_unpool2d": "torch.nn.MaxUnpool2d",  # and 1d, which calls it
    "aten.max_unpool3d": "torch.nn.MaxUnpool3d",
    "aten.upsample_linear1d_backward": "``linear``",
    "aten.upsample_bilinear2d_backward": "``bilinear``",
    "aten.upsample_bicubic2d_backward": "``bicubic``",
    "aten.upsample_trilinear3d_backward": "``trilinear``",
    "aten.reflection_pad1d_backward": "torch.nn.ReflectionPad1d",
    "aten.reflection_pad2d_backward": "torch.nn.ReflectionPad2d",
    "aten.reflection_pad3d_backward": "torch.nn.ReflectionPad3d",
    "aten.nll_loss_forward": "torch.nn.NLLLoss",
    "aten.nll_loss_backward": "torch.nn.NLLLoss",
    "aten.nll_loss2d_forward": "torch.nn.NLLLoss",
    "aten.nll_loss2d_backward": "torch.nn.NLLLoss",
    "aten._ctc_loss_backward": "torch.nn.CTCLoss",
    "aten._embedding_bag_dense_backward": "torch.nn.EmbeddingBag",
    "aten.cumsum": "torch.cumsum",  # of floats, until 2.9
    "aten.kthvalue": "torch.kthvalue",  # until 2.9
    "aten.put": "torch.Tensor.put_",
    "aten.put_": "torch.Tensor.put_",
    "aten.histc": "torch.histc",
    "aten.bincount": "torch.bincount",  # with weights
    "aten.median": "torch.median",  # with indices
    "aten.nanmedian": "torch.median",
    "aten.grid_sampler_2d_backward": "torch.nn.functional.grid_sample",
    "aten.grid_sampler_3d_backward": "torch.nn.functional.grid_sample",
    "aten.scatter_reduce": "torch.Tensor.scatter_reduce",  # with prod
    "aten.scatter_reduce_": "torch.Tensor.scatter_reduce",
}
NOT_OURS = {"torch.nn.functional.interpolate", "torch.nn.MaxUnpool1d", "torch.Tensor.resize_"}  # by mode; 2d; quantized
OLDER = {"torch.nn.MaxPool3d", "torch.cumsum", "torch.kthvalue"}  # that refuse in PyTorch 2.9
TORCHVISION = {
    "torchvision._roi_align_backward",
    "torchvision._roi_pool_backward",
    "torchvision._ps_roi_align_backward",
    "torchvision._ps_roi_pool_backward",
    "torchvision._deform_conv2d_backward",
}
# Of an operator that refuses in some cases only: what of its use refuses.
CASES = {
    "aten.bincount": lambda use: use.tensors > 1,
    "aten.cumsum": lambda use: use.dtype is not None and use.dtype.is_floating_point,
    "aten.median": lambda use: use.overload == "dim",
    "aten.nanmedian": lambda use: use.overload == "dim",
    "aten.scatter_reduce": lambda use: "prod" in use.arguments,
    "aten.scatter_reduce_": lambda use: "prod" in use.arguments,
}


def refusing(uses):
    """Those of the uses that the device would refuse in a reproducible run."""
    return sorted(
        f"{use.operator}: {where}"
        for use, where in uses.items()
        if use.operator in TORCHVISION
        or (use.operator in DOCUMENTED and CASES.get(use.operator, lambda use: True)(use))
    )
