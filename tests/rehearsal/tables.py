"""PyTorch's own table of the types that each operator takes on a CUDA device, and what it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

# In a process of its own: the import changes settings of PyTorch for good. Without a GPU the table would be that of the
# oldest ones; that of Ampere and later, which have bfloat16, is asked for.
READ = """
import json, sys
import torch.testing._internal.common_cuda as cuda
for name in dir(cuda):
    if name.startswith("SM") and name.endswith("OrLater"):
        setattr(cuda, name, True)
from torch.testing._internal import common_methods_invocations as m
lists = [m.op_db] + [v for k, v in sorted(vars(m).items()) if k.startswith("foreach_") and k.endswith("op_db")]
types = lambda dtypes: sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
rows = [
    [op.name, op.variant_test_name, [op.aten_name, *(alias.name for alias in op.aliases)],
     types(op.dtypesIfCUDA), types(op.backward_dtypesIfCUDA)]
    for ops in lists for op in ops
]
json.dump(rows, open(sys.argv[1], "w"))
"""

# What the table lacks, and why it is safe.
UNLISTED = {
    "aten._fused_adamw_": "bfloat16, float16, float32 and float64 (AT_DISPATCH of its kernels, fused_adamw_impl.cu)",
    "aten._local_scalar_dense": "a copy of one number to the host, of any type",
    "aten.alias": "a view",
    "aten.copy_": "copies are made between all types",
    "aten.detach": "a view",
    "aten.feature_dropout": "a product with a random mask; here in evaluation, where it is none",
    "aten.is_nonzero": "a copy of one number to the host, of any type",
    "aten.item": "a copy of one number to the host, of any type",
    "aten.numpy_T": "a view",
    "aten.select_backward": "zeros, and a copy into a view",
    "aten.set_": "the storage of another tensor, without arithmetic",
    "aten.slice_backward": "zeros, and a copy into a view",
    "lk_downstream.depthwise_conv2d": "made of operators that are seen one by one; its GPU kernels have own tests",
    "lk_downstream.depthwise_conv2d_weight": "likewise",
    "torchvision._roi_align_backward": "float16, float32 and float64 (its kernels' AT_DISPATCH); called with float32",
    "torchvision.nms": "likewise",
    "torchvision.roi_align": "likewise",
}
# The types that those of torchvision take on a GPU, roi_align_kernel.cu and nms_kernel.cu.
TORCHVISION = {"float16", "float32", "float64"}

# aten's name -> the table's name, or that with a variant; "<-" where it is the backward pass.
NAMES = {
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "__rshift__": "bitwise_right_shift",
    "_adaptive_avg_pool2d": "nn.functional.adaptive_avg_pool2d",
    "_adaptive_avg_pool2d_backward": "<-nn.functional.adaptive_avg_pool2d",
    "_foreach_norm": "_foreach_norm",
    "_log_softmax": "log_softmax",
    "_log_softmax_backward_data": "<-log_softmax",
    "_softmax": "softmax",
    "_softmax_backward_data": "<-softmax",
    "_native_batch_norm_legit": "nn.functional.batch_norm",
    "_reshape_alias": "view",
    "_to_copy": "to",
    "_unsafe_view": "view",
    "_unsafe_index": "__getitem__",
    "binary_cross_entropy_with_logits": "nn.functional.binary_cross_entropy_with_logits",
    "convolution": "nn.functional.conv2d",
    "convolution_backward": "<-nn.functional.conv2d",
    "gelu_backward": "<-nn.functional.gelu",
    "grid_sampler": "nn.functional.grid_sample",
    "grid_sampler_2d": "nn.functional.grid_sample",
    "index": "__getitem__",
    "leaky_relu_backward": "<-nn.functional.leaky_relu",
    "native_batch_norm": "nn.functional.batch_norm",
    "native_batch_norm_backward": "<-nn.functional.batch_norm",
    "native_group_norm": "nn.functional.group_norm",
    "native_group_norm_backward": "<-nn.functional.group_norm",
    "native_layer_norm_backward": "<-native_layer_norm",
    "nonzero_numpy": "nonzero",
    "nll_loss2d_forward": "nn.functional.nll_loss",
    "nll_loss2d_backward": "<-nn.functional.nll_loss",
    "nll_loss_forward": "nn.functional.nll_loss",
    "nll_loss_backward": "<-nn.functional.nll_loss",
    "sigmoid_backward": "<-sigmoid",
    "smooth_l1_loss_backward": "<-nn.functional.smooth_l1_loss",
    "threshold_backward": "<-nn.functional.relu",
    "upsample_bilinear2d": "nn.functional.interpolate.bilinear",
    "upsample_bilinear2d_backward": "<-nn.functional.interpolate.bilinear",
    "upsample_nearest2d": "nn.functional.interpolate.nearest",
    "upsample_nearest2d_backward": "<-nn.functional.interpolate.nearest",
}


class Table:
    """The table.

    Args:
        folder: Where it is written on its way from the process that reads it.
    """

    def __init__(self, folder: Path):
        path = folder / "operators.json"
        subprocess.run([sys.executable, "-W", "ignore", "-c", READ, str(path)], check=True, capture_output=True)
        self.types: dict[str, set[str]] = {}
        for name, variant, others, forward, backward in json.loads(path.read_text(encoding="utf-8")):
            for known in (name, *others, *([f"{name}.{variant}"] if variant else [])):
                self.types.setdefault(known, set()).update(forward)
                self.types.setdefault(f"<-{known}", set()).update(backward)

    def row(self, operator: str) -> str | None:
        """The table's name of an operator such as ``aten.add_``; None if the table lacks it."""
        name = operator.removeprefix("aten.")
        for known in (name, name.rstrip("_")):
            known = NAMES.get(known, known)
            for full in (
                known,
                f"nn.functional.{known}",
                f"special.{known}",
                f"linalg.{known.removeprefix('linalg_')}",
            ):
                if full in self.types:
                    return full
        return None

    def takes(self, operator: str, dtype: torch.dtype) -> bool:
        """Whether the operator, which is in the table, takes the type."""
        return str(dtype).removeprefix("torch.") in self.types[self.row(operator)]

    def refused(self, uses: Iterable[tuple[str, torch.dtype]]) -> list[str]:
        """Operators that a CUDA device lacks, or lacks for this type; and those of which nothing is known."""
        found = []
        for operator, dtype in uses:
            if operator.startswith("torchvision."):
                known = operator in UNLISTED and str(dtype).removeprefix("torch.") in TORCHVISION
            else:
                known = operator in UNLISTED or (self.row(operator) is not None and self.takes(operator, dtype))
            if not known:
                found.append(f"{operator} {dtype}")
        return sorted(set(found))
