"""What trained models cost where they run: what is counted and measured, not how fast anything is."""

import functools
import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from lk_downstream import InputError, create_backbone, create_classifier
from lk_downstream.analysis import profiling
from lk_downstream.analysis.costs import costs, total
from lk_downstream.analysis.memory import PeakMemory
from lk_downstream.analysis.profiling import profile_task, profile_tasks
from lk_downstream.commands import run
from lk_downstream.detectors import FCOS, FasterRCNN, FPNSettings
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.reports.profile import profile_table
from lk_downstream.tasks import Classification, Detection, Segmentation


def thin_head(channels, classes):
    return UPerHead(channels, classes, channels=16)


def thin_auxiliary(channels, classes):
    return FCNHead(channels, classes, channels=16)


def segmentation(name="test_slak"):
    return Segmentation(create_backbone(name), ("a", "b", "c"), thin_head, thin_auxiliary)


def classification(name="test_replknet"):
    return Classification(create_classifier(name, num_classes=2), ("a", "b"))


def test_peak_memory_by_hand():
    x = torch.ones(1000)  # 4000 bytes that were there before
    with PeakMemory() as memory:
        first = x + 1  # 4000
        second = first * 2  # 8000
        first.mul_(3).view(10, 100)  # in place, and a view of it: no more
        del first  # 4000
        third = second.repeat(2)  # 12000
        del second, third
        x + 1
    assert memory.peak == 12000
    with PeakMemory() as memory:
        kept = [x + 1 for _ in range(5)]  # planted: nothing is let go of
    assert memory.peak == 20000 == 4000 * len(kept)


@pytest.mark.parametrize("merged", [False, True])
def test_metrics_of_a_segmentation(merged):
    task = segmentation()
    weights = dict(task.state_dict())
    profile = profile_task(task, (64, 96), batch=2, merged=merged, device="cpu", rounds=3)
    assert all(torch.equal(weights[name], value) for name, value in task.state_dict().items())  # as it was
    # The same by the counter of published results, which hooks layers and knows nothing of a task.
    parts = nn.ModuleDict({"backbone": task.backbone, "head": task.head})
    expected = _counted(parts, merged)
    for name in ("backbone", "head"):
        assert profile.parts[name].parameters == expected[name].parameters
        # Adaptive pooling is a matrix product, too, but no layer with weights.
        assert profile.parts[name].macs == pytest.approx(expected[name].macs, rel=0.005 * (name == "head"))
    assert profile.parameters == sum(cost.parameters for cost in expected.values())  # no auxiliary head
    assert profile.macs == sum(part.macs for part in profile.parts.values())
    assert 0 < profile.fast <= profile.latency <= profile.slow
    assert profile.throughput == pytest.approx(2 / profile.latency)
    weights = 4 * profile.parameters / 2**20
    assert weights < profile.memory < weights + 50
    assert (profile.form, profile.height, profile.width) == ("merged" if merged else "plain", 64, 96)


class Chain(nn.Module):
    """Backbone and head as one network."""

    def __init__(self, parts):
        super().__init__()
        self.backbone, self.head = parts["backbone"], parts["head"]

    def forward(self, x):
        return self.head(self.backbone(x))


def _counted(parts, merged):
    from lk_downstream import reparameterize

    chain = Chain(parts).eval()
    return costs((reparameterize(chain) if merged else chain).to("meta"), (64, 96))


def test_a_classifier_and_its_zeros():
    task = classification()
    layer = task.backbone.body.stages[0].blocks[0].pw1.conv
    with torch.no_grad():
        layer.weight.zero_()
    profile = profile_task(task, 64, merged=False, device="cpu", rounds=1)
    assert profile.parameters == sum(p.numel() for p in task.parameters())
    zeros = sum(int((p == 0).sum()) for p in task.parameters())
    assert zeros >= layer.weight.numel()
    assert profile.nonzero == profile.parameters - zeros
    assert profile.macs == total(costs(task.backbone.body.eval().to("meta"), (64, 64)), True).macs
    assert profile.parts["head"].parameters == profile.parts["head"].macs + 2 == 96 * 2 + 2


def test_models_beside_each_other_by_size_and_batch(capsys):
    tasks = {"one": classification(), "two": classification("test_convnext")}
    profiles = profile_tasks(tasks, [(32, 32), (64, 32)], (1, 2), ["plain"], "cpu", rounds=1)
    assert [(item.name, item.height, item.batch) for item in profiles] == [
        (name, height, batch) for height in (32, 64) for batch in (1, 2) for name in ("one", "two")
    ]
    four = Classification(create_classifier("test_convnext", num_classes=2, in_chans=4), ("a", "b"))
    both = profile_tasks({"three": tasks["two"], "four": four}, [(32, 32)], forms=["plain"], device="cpu", rounds=1)
    assert both[1].macs - both[0].macs == 32 * 32 * 24  # of its stem: 24 outputs for 16 pixels of one more channel
    one = [item for item in profiles if item.name == "one"]
    deep = profile_tasks({"one": tasks["one"]}, [(32, 32)], forms=["deep"], device="cpu", rounds=1)[0]
    assert deep.parameters < profile_task(tasks["one"], 32, device="cpu", rounds=1).parameters < one[0].parameters
    assert one[0].macs == one[1].macs  # of one image
    assert one[2].parts["backbone"].macs == 2 * one[0].parts["backbone"].macs  # nothing but convolutions
    assert one[1].memory > one[0].memory  # of a batch
    table = profile_table([asdict(item) for item in profiles])
    assert table.row_count == 4 * len(profiles)
    assert list(table.columns[0].cells)[:5] == ["one, plain", "  backbone", "  head", "  rest", "two, plain"]


@pytest.mark.parametrize("kind", [FCOS, FasterRCNN])
def test_detectors_with_one_stage_and_two(kind):
    detector = functools.partial(kind, neck=FPNSettings(channels=16), num_classes=2)
    task = Detection(create_backbone("test_convnext"), detector, ("a", "b"))
    profile = profile_task(task, 64, merged=False, device="cpu", rounds=1)
    head = [part for name, part in task.named_children() if name != "backbone"]
    assert profile.parts["head"].parameters == sum(p.numel() for part in head for p in part.parameters())
    assert profile.parts["head"].macs > 0
    assert profile.parts["backbone"].latency > 0


def test_each_side_is_measured_in_every_round(monkeypatch):
    order = []

    def seconds(side, images):
        order.append(side)
        return dict.fromkeys(("", *profiling.PARTS), 1.0)

    monkeypatch.setattr(profiling._Side, "seconds", seconds)
    tasks = {"one": classification(), "two": classification()}
    profile_tasks(tasks, [(32, 32)], forms=["plain"], device="cpu", rounds=3)
    assert len(order) == 6
    assert order[0] is order[2] is order[4]
    assert order[0] is not order[1]


def test_what_is_wrong_gets_a_sentence():
    with pytest.raises(InputError, match=r"does not take 1 image of 2 x 2 pixels .*give sizes"):
        profile_task(classification("test_convnext"), 2, device="cpu", rounds=1)
    for wrong in ({"size": 0}, {"size": 32, "batch": 0}, {"size": 32, "rounds": 0}):
        with pytest.raises(InputError, match="are at least 1"):
            profile_task(classification(), **wrong, device="cpu")


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lk_downstream.analysis.models.load_task", lambda path, trusted: classification())
    (tmp_path / "run_0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run_0" / "checkpoints" / "last.ckpt").touch()
    words = ["--checkpoint", "run_0", "x.ckpt", "--device", "cpu", "--rounds", "1", "--forms", "plain"]
    assert run("profile", [*words, "--sizes", "32x64", "--output", "out/x.json"]) == 0
    written = json.loads((tmp_path / "out" / "x.json").read_text(encoding="utf-8"))["profiles"]
    assert [(row["name"], row["height"], row["width"]) for row in written] == [("run_0", 32, 64), ("x.ckpt", 32, 64)]
    assert written[0]["parts"]["backbone"]["macs"] > 0
    printed = capsys.readouterr().out
    assert "run_0, plain" in printed
    assert "32 x 64" in printed
    for wrong, said in (
        (["--sizes", "3y4"], "--sizes takes sides, such as 512"),
        (["--forms", "mergd"], "forms are plain, merged, deep, not 'mergd'; did you mean 'merged'?"),
        (["--model", "test_slak"], "give either --model or --checkpoint"),
        (["--checkpoint", "."], "holds no checkpoints/last.ckpt"),
    ):
        assert run("profile", [*words, *wrong]) == 1
        assert said in capsys.readouterr().err
