"""What is asked of the machine, on machines of other kinds."""

import os
from pathlib import Path

import pytest
import torch

from lk_downstream import machine
from lk_downstream.cli import main

DEMO = str(Path(__file__).parents[1] / "configs" / "demo_segmentation.yaml")
SMALL = [
    *(
        "--config",
        DEMO,
        "--trainer.accelerator",
        "cpu",
        "--trainer.max_steps",
        "1",
        "--trainer.val_check_interval",
        "1",
    ),
    *("--data.synthetic", "{train: 4, val: 2, size: [64, 80]}", "--data.workers", "0"),
    *("--data.batch_size", "2", "--data.crop_size", "64", "--data.scale", "[80, 64]"),
]


@pytest.fixture
def cpu(monkeypatch):
    """Pretends a CPU: its architecture, what oneDNN and PyTorch say, and the environment."""

    def pretend(architecture="x86_64", onednn=True, capability="AVX512", bf16=False, amx=False, isa=None, enabled=True):
        monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
        for name in ("bf16", "fp16"):
            monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: onednn, raising=False)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: enabled)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        if isa:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)

    return pretend


@pytest.mark.parametrize(
    ("kind", "slow"),
    [
        ({"amx": True}, False),  # Sapphire Rapids
        ({"bf16": True}, False),  # Zen 4, Cooper Lake
        ({"bf16": True, "architecture": "AMD64"}, False),  # as Windows names it
        ({}, True),  # Skylake: oneDNN takes bfloat16, and emulates it
        ({"onednn": False, "capability": "AVX2"}, True),  # Zen 3, Haswell
        ({"amx": True, "isa": "avx512_core"}, True),
        ({"amx": True, "isa": "AVX512_CORE_BF16"}, False),
        ({"amx": True, "capability": "AVX2"}, True),  # ATEN_CPU_CAPABILITY=avx2
        ({"amx": True, "enabled": False}, True),
        ({"architecture": "aarch64", "capability": "SVE256"}, False),  # Graviton 3
        ({"architecture": "aarch64", "capability": "DEFAULT", "onednn": False}, True),  # Graviton 2
        ({"architecture": "arm64", "capability": "DEFAULT", "enabled": False}, True),  # PyTorch for macOS
    ],
)
def test_bfloat16_by_kind_of_cpu(cpu, kind, slow):
    cpu(**kind)
    for precision in ("bf16-mixed", "bf16-true", "16-mixed", "16", 16, "bf16"):
        assert machine.slow_type(precision) == ("bfloat16" if slow else None)
    for precision in (None, 32, "32-true", "64-true"):
        assert machine.slow_type(precision) is None


def test_float16(cpu):
    cpu(amx=True)
    assert machine.slow_type("16-true") is None
    cpu(amx=True, isa="AVX512_CORE_BF16")
    assert machine.slow_type("16-true") == "float16"
    assert machine.slow_type("bf16-mixed") is None


def config(tmp_path, precision):
    path = tmp_path / "own.yaml"
    path.write_text(f"trainer: {{precision: {precision}}}\n", encoding="utf-8")
    return ["--config", str(path), "--trainer.default_root_dir", str(tmp_path / "runs")]


def test_a_precision_of_a_file_follows_the_cpu(cpu, tmp_path, capsys):
    precision = "16-mixed"
    cpu(onednn=False, capability="AVX2")
    cli = main("fit", [*SMALL, *config(tmp_path, precision)])
    assert cli.trainer.precision == "32-true"
    said = capsys.readouterr().out
    assert said.count(f"32-true is used in place of {precision} (--trainer.precision {precision} insists)") == 1
    assert "precision: 32-true" in next(tmp_path.rglob("config.yaml")).read_text(encoding="utf-8")


def test_a_precision_of_a_file_is_kept_where_the_cpu_has_it(cpu, tmp_path, capsys):
    cpu(amx=True)
    assert main("fit", [*SMALL, *config(tmp_path, "bf16-mixed")]).trainer.precision == "bf16-mixed"
    assert "arithmetic" not in capsys.readouterr().out


def test_a_slow_precision_that_is_asked_for_is_taken_with_a_word(cpu, tmp_path, capsys):
    cpu(onednn=False, capability="AVX2")
    cli = main("fit", [*SMALL, "--trainer.precision=bf16-mixed", "--trainer.default_root_dir", str(tmp_path)])
    assert cli.trainer.precision == "bf16-mixed"
    assert capsys.readouterr().out.count("this CPU has no bfloat16 arithmetic") == 1


def test_memory_and_cores():
    assert 0.01 < machine.peak_memory(torch.device("cpu")) < 1000
    assert 1 <= machine.cores() <= os.cpu_count()


def test_a_path_on_another_drive_is_printed_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert machine.shown_path(tmp_path / "runs" / "a") == os.path.join("runs", "a")

    def relpath(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert machine.shown_path(tmp_path) == str(tmp_path)
