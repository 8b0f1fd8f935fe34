"""The benchmark on tiny sizes: what it measures and writes, not how fast anything is."""

import csv
import functools
import itertools
import math
import time

import torch
from torch import nn

from lk_downstream.analysis import latency
from lk_downstream.commands import run
from lk_downstream.ops import LargeKernelConv2d

SIDES = ["ours, contiguous", "ours, channels_last", "plain, contiguous", "plain, channels_last"]


def test_ratios_are_those_of_medians():
    measured = {name: ([value, value, 9.0], math.nan) for name, value in zip(SIDES, (1.0, 2.0, 4.0, 3.0))}
    rows = latency.rows_of("case", "forward", measured, images=6)
    assert [row.times_authors for row in rows] == [4, 2, 1, 4 / 3]
    assert [row.times_best for row in rows] == [3, 1.5, 0.75, 1]
    assert [row.images for row in rows] == [6, 3, 1.5, 2]
    assert {row.slowest for row in rows} == {9}


def test_layers_are_written_as_table_csv_and_plot(tmp_path, capsys):
    options = "layers --device cpu --batch 1 --channels 4 --sizes 8 --kernels 3 5 --depth 2 --rounds 1 --report"
    assert run("benchmark", [*options.split(), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 x 5x5, (1, 4, 8, 8)" in printed
    assert "forward 5x5" in printed
    with (tmp_path / "layers_cpu_float32.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["side"] for row in rows] == [*SIDES, latency.FFT] * 4
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert (tmp_path / "layers_cpu_float32.png").stat().st_size > 1000


def test_a_side_can_be_left_out():
    options = {"batch": 1, "channels": 4, "sizes": [8], "kernels": [5], "depth": 1, "rounds": 1}
    (rows,) = latency.layers(**options, backward=False, contiguous=False)
    assert [row.side for row in rows] == [SIDES[0], SIDES[1], SIDES[3], latency.FFT]


def test_networks_run_in_every_mode_on_every_side():
    seen = []

    class Layer(LargeKernelConv2d):
        def forward(self, x):
            last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            seen.append((self.training, torch.is_grad_enabled(), self.backend, last))
            return super().forward(x)

    def build(name):
        return nn.Sequential(nn.Conv2d(3, 4, 1), Layer(4, 4, 5, padding=2, groups=4), nn.BatchNorm2d(4))

    merged = []

    def merge(model, deep):
        merged.append(deep)
        return model

    modes = ["inference", "merged", "deep", "training"]
    groups = list(latency.networks(build, merge, lambda model: model, ["a"], [8], 2, modes, rounds=1))
    assert [group[0].mode for group in groups] == modes
    assert [row.side for row in groups[0]] == [*SIDES, latency.AUTHORS]
    assert groups[0][-1].times_authors == 1
    assert merged == [False, True]
    sides = [("auto", False), ("auto", True), ("plain", False), ("plain", True), ("plain", False)]
    expected = [(mode == modes[3], mode == modes[3], *side) for mode in modes for _ in range(2) for side in sides]
    assert [call for call, _ in itertools.groupby(seen)] == expected  # of each call in turn there are many


def test_short_runs_are_repeated(monkeypatch):
    monkeypatch.setattr(latency, "LEAST", 0.3)
    calls = {"short": 0, "long": 0}

    def run(name, seconds):
        calls[name] += 1
        time.sleep(seconds)

    sides = {name: functools.partial(run, name, seconds) for name, seconds in (("short", 0.01), ("long", 0.4))}
    measured = latency.measure(sides, 1, torch.device("cpu"))
    assert calls["long"] == 3  # twice to warm up
    assert calls["short"] > 4
    assert measured["long"][0][0] >= 0.4
    assert measured["short"][0][0] >= 0.01
