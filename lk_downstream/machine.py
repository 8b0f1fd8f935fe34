"""What the machine has and can do, on every system that PyTorch runs on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch

from lk_downstream import __version__, trust

# Precisions of Lightning that compute in bfloat16 on a CPU (it makes bf16-mixed of 16-mixed), and in float16
BFLOAT16, FLOAT16 = ("bf16", "bf16-mixed", "bf16-true", "16", "16-mixed"), ("16-true",)
X86 = ("x86_64", "amd64", "i386", "i686", "x86")
# Values of ONEDNN_MAX_CPU_ISA by which oneDNN, which computes convolutions and matrix products, leaves 16 bit out
LESS_THAN_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
LESS_THAN_FLOAT16 = (*LESS_THAN_BFLOAT16, "AVX512_CORE_BF16")
NARROW = (
    "NO AVX",
    "DEFAULT",
    "AVX2",
)  # what PyTorch's own kernels are limited to, on old CPUs or by ATEN_CPU_CAPABILITY


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shown_path(path: str | os.PathLike) -> str:
    """A path as it is printed: from the current folder, or whole where none leads there (another drive of Windows)."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def peak_memory(device: torch.device) -> float | None:
    """Most memory held so far in GiB: allocated on the GPU, or resident on the CPU; None where it is not told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else str(device)


def description() -> dict[str, str | int]:
    """What a reader of a report wants to know of this machine; not its name."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # on Linux
        lines = trust.read_text("/proc/cpuinfo").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, str | int] = {"system": platform.system(), "processor": processor, "cores": cores()}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["GPUs"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        found["CUDA"] = str(torch.version.cuda)
    return found


def versions() -> dict[str, str]:
    """Versions of this package, of the libraries that compute, and of Python."""
    found = {"lk_downstream": __version__}
    for name in ("torch", "torchvision", "lightning", "timm"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {**found, "Python": platform.python_version()}


def record(command: Sequence[str]) -> dict[str, Any]:
    """What a file of measurements says of them: the command, the machine with its CPU's abilities, and versions."""
    machine = {**description(), "abilities": torch.backends.cpu.get_cpu_capability()}
    return {"command": " ".join(command), "machine": machine, "versions": versions()}


def slow_type(precision: str | int | None) -> str | None:
    """The 16-bit type that this CPU would have to emulate for a precision of Lightning, or None.

    That takes some ten times as long as float32.
    """
    precision = str(precision)
    if precision in BFLOAT16:
        return None if _computes(torch.bfloat16) else "bfloat16"
    return "float16" if precision in FLOAT16 and not _computes(torch.float16) else None


def _computes(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for products in a 16-bit type, and PyTorch is free to use them."""
    short = "bf16" if dtype == torch.bfloat16 else "fp16"
    library = torch.backends.mkldnn.is_available() and getattr(torch.backends.mkldnn, "enabled", True)
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{short}_supported", None) if library else None
    if supported is None or not supported():
        return False
    if platform.machine().lower() not in X86:
        return True  # on ARM PyTorch asks the CPU itself; on x86 it is content with the wider registers of AVX-512
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    below = LESS_THAN_BFLOAT16 if dtype == torch.bfloat16 else LESS_THAN_FLOAT16
    if allowed.upper() in below or torch.backends.cpu.get_cpu_capability() in NARROW:
        return False
    if dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True  # oneDNN says so of float16 only where there are instructions for it
