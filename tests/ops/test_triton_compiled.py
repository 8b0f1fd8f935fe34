"""The Triton kernels, compiled for GPUs that need not be here: tensor cores, wide loads, memory that the chip has."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from lk_downstream.ops import triton_backend

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(triton_backend.interpreted(), reason="the interpreter compiles nothing")

# Compute capability -> the instruction of its tensor cores, and the shared memory that a block can have.
CHIPS = {80: ("mma.sync", 163 * 1024), 90: ("wgmma.mma_async", 227 * 1024)}  # A100, H100
# (N, C, H, W), kernel: Table 1 of the RepLKNet paper, and the last stages, whose widths 8 does not divide.
SHAPES = [((64, 2, 32, 32), (31, 31)), ((64, 2, 14, 14), (27, 27)), ((64, 2, 7, 7), (13, 13))]


class Compiler:
    """Stands in for a kernel: compiles what a launch would run."""

    def __init__(self, kernel, capability):
        self.kernel = kernel
        self.capability = capability
        self.result = None

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, num_warps, num_stages, **constants):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self.kernel.arg_names
        types = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
        signature = {n: types[a.dtype] if isinstance(a, torch.Tensor) else "i32" for n, a in zip(names, args)}
        signature |= dict.fromkeys(constants, "constexpr")
        # What Triton finds out about arguments when it launches: addresses and numbers that 16 divides.
        divisible = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) or a % 16 == 0]
        source = ASTSource(
            self.kernel,
            signature,
            {(names.index(name),): value for name, value in constants.items()},
            {(i,): [["tt.divisibility", 16]] for i in divisible},
        )
        options = {"num_warps": num_warps, "num_stages": num_stages}
        self.result = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)


def compiled(monkeypatch, name, capability, launch):
    from lk_downstream.ops import triton_kernels

    compiler = Compiler(getattr(triton_kernels, name), capability)
    monkeypatch.setattr(triton_kernels, name, compiler)
    launch()
    return compiler.result


def check(result, capability, folder):
    """That the program is as it should be; returns the widths of its loads, in hexadecimal bytes."""
    instruction, memory = CHIPS[capability]
    ptx = result.asm["ptx"]
    assert instruction in ptx
    assert result.metadata.shared <= memory
    (folder / "program.cubin").write_bytes(result.asm["cubin"])
    reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [reader, "-res-usage", folder / "program.cubin"]
    usage = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert re.search(r"REG:\d+ STACK:0 .*LOCAL:0 ", usage), usage  # nothing spilled out of the registers
    return set(re.findall(r"cp\.async\.\w+\.shared\.global[^;]*, 0x(\w+)", ptx))


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("capability", CHIPS)
def test_forward(shape, size, capability, monkeypatch, tmp_path):
    n, c, h, w = shape
    x, weight = torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(c, 1, *size, dtype=torch.bfloat16)
    plan = triton_backend.forward_plans(n, h, -(-w // 8) * 8, *size, x.element_size(), 384)[0]
    program = compiled(monkeypatch, "forward_kernel", capability, lambda: triton_backend.forward(x, weight, None, plan))
    widths = check(program, capability, tmp_path)
    assert "10" in widths  # 16 bytes at a time, a whole row of eight numbers
    assert "4" not in widths


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("capability", CHIPS)
def test_weight_gradient(shape, size, capability, monkeypatch, tmp_path):
    n, _, h, w = shape
    x = torch.zeros(shape, dtype=torch.bfloat16)
    plan = triton_backend.weight_plans(n, h, -(-w // 8) * 8, *size, x.element_size(), 384)[0]
    launch = lambda: triton_backend.weight_gradient(x, x, size, plan)  # noqa: E731
    assert check(compiled(monkeypatch, "weight_kernel", capability, launch), capability, tmp_path) == {"10"}
