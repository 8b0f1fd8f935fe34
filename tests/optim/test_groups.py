"""Which tensors decay, and the layer-wise learning rates of the papers, on the real models (without their memory)."""

import io
import re
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import timm
import torch
from lightning.pytorch.plugins import MixedPrecision
from rich.console import Console

from lk_downstream import InputError, create_backbone
from lk_downstream.cli import main
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.optim import LayerDecay, ParameterGroups, Poly, groups_table
from lk_downstream.tasks import Segmentation


def task(name, classes=150, **options):
    """UPerNet on the meta device."""
    with torch.device("meta"):
        return Segmentation(create_backbone(name), tuple(map(str, range(classes))), **options)


# What a name of each family begins with, by stage: downsampling layer and blocks.
NAMES = {
    "convnext": (("stem.", "stages.{}.downsample."), "stages.{}.blocks.{}."),
    "slak": (("downsample_layers.0.", "downsample_layers.{}."), "stages.{}.{}."),
}


def factor(scales, beginning):
    """The one factor of all parameters whose name begins so."""
    found = {scale for name, scale in scales.items() if name.startswith(beginning)}
    assert len(found) == 1, (beginning, found)
    return found.pop()


def family(name):
    return name.split("_")[0]


@pytest.mark.parametrize(
    ("name", "layers", "downsample", "stages"),
    [
        ("convnext_tiny", 6, 0.4783, (0.5314, 0.5905, 0.6561, 0.7290)),
        ("slak_tiny", 6, 0.4783, (0.5314, 0.5905, 0.6561, 0.7290)),
        ("convnext_small", 12, 0.2542, (0.2824, 0.3138, 0.3487, 0.3874)),
        ("convnext_xlarge", 12, 0.2542, (0.2824, 0.3138, 0.3487, 0.3874)),
        ("slak_small", 12, 0.2542, (0.2824, 0.3138, 0.3487, 0.3874)),
        ("slak_base", 12, 0.2542, (0.2824, 0.3138, 0.3487, 0.3874)),
    ],
)
def test_stage_wise_factors_of_the_segmentation_recipes(name, layers, downsample, stages):
    scales = LayerDecay(0.9, layers, "stage").scales(task(name))
    (stem, down), _ = NAMES[family(name)]
    body = "backbone.body."
    for beginning in (stem, *(down.format(stage) for stage in (1, 2, 3))):
        assert factor(scales, body + beginning) == pytest.approx(downsample, abs=5e-5)
    for stage, expected in enumerate(stages):
        below = {key: value for key, value in scales.items() if key.startswith(f"{body}stages.{stage}.")}
        blocks = {key: value for key, value in below.items() if ".downsample." not in key}
        assert factor(blocks, body) == pytest.approx(expected, abs=5e-5)
    for beginning in ("head.", "auxiliary_head.", *(f"backbone.norm{level}." for level in range(4))):
        assert factor(scales, beginning) == 1.0
    assert len(scales) == len(list(task(name).parameters()))


@pytest.mark.parametrize(
    ("name", "rate", "layers", "lowest", "highest"),
    [
        ("convnext_tiny", 0.7, 6, 0.0824, 0.7),
        ("convnext_tiny", 0.95, 6, 0.698, 0.95),
        ("convnext_base", 0.7, 12, 0.00969, 0.7),
        ("convnext_base", 0.8, 12, 0.0550, 0.8),
        ("slak_base", 0.8, 12, 0.0550, 0.8),
    ],
)
def test_layer_wise_factors_of_the_detection_recipes(name, rate, layers, lowest, highest):
    scales = LayerDecay(rate, layers, "layer").scales(task(name))
    (stem, down), block = NAMES[family(name)]
    body = "backbone.body."

    def of(layer):
        return pytest.approx(rate ** (layers + 1 - layer), rel=1e-9)

    assert factor(scales, body + stem) == of(0)
    assert factor(scales, body + stem) == pytest.approx(lowest, rel=1e-3)
    for stage, layer in ((1, 2), (2, 3), (3, layers)):
        assert factor(scales, body + down.format(stage)) == of(layer)
    for stage, layer in ((0, 1), (1, 2), (3, layers)):
        for number in range(3):
            assert factor(scales, body + block.format(stage, number)) == of(layer)
    for number in range(9 if layers == 6 else 27):
        assert factor(scales, body + block.format(2, number)) == of(3 + number // 3)
    assert of(layers) == pytest.approx(highest)
    assert factor(scales, "head.") == factor(scales, "backbone.norm0.") == 1.0


@pytest.mark.parametrize("name", ["replknet_31b", "replknet_xl"])
@pytest.mark.parametrize("kind", ["classifier", "task"])
def test_layer_ids_of_replknet(name, kind):
    if kind == "task":
        model, prefix = task(name), "backbone.body."
    else:
        with torch.device("meta"):
            model, prefix = timm.create_model(name), ""
    ids = LayerDecay(0.7, 12, "layer").ids(model)
    expected = {"stem.": 0, "transitions.0.": 1, "transitions.1.": 2, "transitions.2.": 11}
    for stage, blocks in enumerate((4, 4, 36, 4)):
        for block in range(blocks):
            expected[f"stages.{stage}.blocks.{block}."] = (1, 2, 3 + block // 4, 12)[stage]
    for beginning, layer in expected.items():
        assert factor(ids, prefix + beginning) == layer, beginning
    rest = {key: layer for key, layer in ids.items() if not key.startswith(tuple(prefix + start for start in expected))}
    assert set(rest.values()) == {13}
    assert any(key.startswith(("norm.", "head.")) for key in rest)
    scales = LayerDecay(0.7, 12, "layer").scales(model)
    assert min(scales.values()) == pytest.approx(0.7**13)


def test_stages_of_replknet_take_the_transition_after_them():
    ids = LayerDecay(0.9, 12, "stage").ids(task("replknet_31b"))
    for beginning, layer in {
        "stem.": 0,
        "stages.2.": 3,
        "transitions.2.": 3,
        "stages.3.": 4,
        "transitions.0.": 1,
    }.items():
        assert factor(ids, f"backbone.body.{beginning}") == layer


@pytest.mark.parametrize("name", ["convnext_small", "convnext_base", "slak_tiny"])
def test_the_classifier_rule_of_convnext_and_slak(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    layers, rate = (6, 0.8) if name == "slak_tiny" else (12, 0.7)
    ids = LayerDecay(rate, layers, "layer").ids(model)
    (stem, down), block = NAMES[family(name)]
    assert factor(ids, stem) == 0
    assert [factor(ids, down.format(stage)) for stage in (1, 2, 3)] == [2, 3, layers]
    assert factor(ids, block.format(2, 5)) == 4
    assert factor(ids, block.format(3, 2)) == layers
    ends = [layer for key, layer in ids.items() if key.startswith(("head.", "norm."))]
    assert set(ends) == {layers + 1}


def test_backbones_of_other_families():
    decay = LayerDecay(0.5, 4, "stage")
    scales = decay.scales(task("resnet18", classes=3))
    rates = [factor(scales, f"backbone.body.{part}.") for part in ("conv1", "layer1", "layer2", "layer3", "layer4")]
    assert rates == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5]
    assert factor(scales, "head.") == 1.0
    with torch.device("meta"):
        classifier = timm.create_model("resnet18")
    ids = decay.ids(classifier)
    assert factor(ids, "fc.") == 5
    assert factor(LayerDecay(0.5, 12, "layer").ids(classifier), "layer4.") == 12
    with pytest.raises(InputError, match=r"layer_decay cannot tell the layers of Linear apart"):
        decay.scales(torch.nn.Linear(2, 2))


def spared(model, rule):
    return {name for group in ParameterGroups(rule)(model) if "weight_decay" in group for name in group["names"]}


@pytest.mark.parametrize("name", ["convnext_tiny", "slak_tiny", "replknet_31b"])
def test_vectors_do_not_decay_in_the_recipes_of_convnext_and_slak(name):
    model = task(name)
    expected = {key for key, value in model.named_parameters() if value.ndim == 1}
    assert expected == spared(model, "vectors")
    assert any(key.endswith(".gamma") for key in expected) == (not name.startswith("replknet"))
    assert {"head.conv_seg.bias", "auxiliary_head.conv_seg.bias"} < expected


def test_batch_norms_do_not_decay_in_the_recipe_of_replknet():
    model = task("replknet_31b")
    found = spared(model, "batch_norms")
    assert found == spared(model, "norms") == {key for key, value in model.named_parameters() if "bn" in key}
    assert "head.conv_seg.bias" not in found  # as in mmcv


def test_layer_norms_and_layer_scale_decay_in_the_80k_recipe_of_slak():
    model = task("slak_tiny")
    found = spared(model, "batch_norms")
    assert found == {key for key in dict(model.named_parameters()) if ".bn." in key}
    more = spared(model, "norms") - found
    assert "backbone.norm0.weight" in more
    assert not any(key.endswith(".gamma") for key in more)
    assert spared(model, "nothing") == set()


def test_frozen_parameters_are_in_no_group():
    model = task("test_convnext", classes=3)
    model.backbone.requires_grad_(False)
    names = [name for group in ParameterGroups(layer_decay=LayerDecay(0.9))(model) for name in group["names"]]
    assert names
    assert not any(name.startswith("backbone.") for name in names)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        ParameterGroups().optimizer(model, torch.optim.AdamW)


class Batches(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
        return {"image": image, "mask": image[0] % 3, "size": torch.tensor([32, 32]), "name": str(index)}


class Rates(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        groups = trainer.optimizers[0].param_groups
        self.seen.append({group["lr_scale"]: group["lr"] for group in groups})
        self.decay = {(group["lr_scale"], group["weight_decay"]) for group in groups}


def test_factors_reach_the_optimizer_under_lightning_and_stay_through_the_schedule(tmp_path):
    model = Segmentation(
        create_backbone("test_convnext"),
        ("a", "b", "c"),
        head=partial(UPerHead, channels=8),
        auxiliary_head=partial(FCNHead, channels=8),
        optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.05),
        schedule=partial(Poly, warmup_steps=3),
        groups=ParameterGroups(layer_decay=LayerDecay(0.9, 6, "stage")),
    )
    rates = Rates()
    trainer = L.Trainer(
        max_steps=8, accelerator="cpu", logger=False, callbacks=[rates], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.fit(model, torch.utils.data.DataLoader(Batches(), batch_size=2, num_workers=0))
    # 4 batches an epoch, two epochs
    assert len(rates.seen) == 8
    for step, seen in enumerate(rates.seen):
        factor = (1 - step / 8) * (1 - (1 - step / 3) * (1 - 1e-6) if step < 3 else 1)
        assert len(seen) == 6
        for scale, rate in seen.items():
            assert rate == pytest.approx(0.1 * scale * factor, rel=1e-9)
    assert {round(scale, 4) for scale in seen} == {0.4783, 0.5314, 0.5905, 0.6561, 0.729, 1.0}
    assert {weight_decay for _, weight_decay in rates.decay} == {0.0, 0.05}
    assert all((before[name] != value).any() for name, value in model.named_parameters())


def test_a_step_is_as_much_smaller_as_the_factor_says():
    model = task("test_convnext", classes=3).to_empty(device="cpu")
    for value in model.parameters():
        torch.nn.init.zeros_(value)
        value.grad = torch.ones_like(value)
    decay = LayerDecay(0.9, 6, "stage")
    ParameterGroups("nothing", decay).optimizer(model, partial(torch.optim.SGD, lr=1.0)).step()
    scales = decay.scales(model)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), torch.full_like(value, -scales[name]))


def test_the_table_of_groups():
    console = Console(width=160, record=True, file=io.StringIO())
    groups = ParameterGroups("vectors", LayerDecay(0.7, 12, "layer"))
    console.print(groups_table(groups, task("replknet_31b"), partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.05)))
    lines = console.export_text().splitlines()
    assert lines[0].strip() == "AdamW, layer-wise decay 0.7 over 12, without weight decay: vectors"
    rows = [line.split() for line in lines[2:] if line.strip()]
    assert rows[0] == ["0", "stem", "4", "22,144", "0.00969", "9.689e-07", "0.05"]
    assert any(row[1:3] == ["stages.2.32-35,", "transitions.2"] for row in rows)
    assert rows[-1][1:3] == ["head,", "auxiliary_head"]
    assert rows[-1][-3:] == ["1.00000", "0.0001", "0"]
    parameters = sum(int(row[-4].replace(",", "")) for row in rows)
    assert parameters == sum(value.numel() for value in task("replknet_31b").parameters())


def test_the_command_line_prints_the_groups_without_touching_data(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = Path(__file__).parents[2] / "configs" / "upernet_convnext_tiny_ade20k.yaml"
    with pytest.raises(SystemExit) as stop:  # weights: in1k of the config is not downloaded
        main("fit", ["--config", str(config), "--print_groups"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    # Behind a line on the precision, where the CPU lacks that of the config.
    assert re.search(r"^AdamW, stage-wise decay 0.9 over 6, without weight decay: vectors", printed, re.MULTILINE)
    assert re.search(r"2 +stages\.0\.0-2 +9 +235,296 +0\.53144 +5\.314e-05 +0\.05", printed)
    assert list(tmp_path.iterdir()) == []


class Plain(L.LightningModule):
    """One layer; its optimizer is grouped by the package."""

    def __init__(self, factory=torch.optim.AdamW, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.factory, self.options = torch.nn.Linear(4, 3), factory, options

    def configure_optimizers(self):
        return ParameterGroups().optimizer(self, partial(self.factory, lr=0.05, **self.options))

    def training_step(self, batch, index):
        return self.layer(batch).square().mean()


BATCHES = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factory", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.NAdam])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}])
def test_one_pass_over_the_parameters_where_there_is_one_and_nothing_is_asked(factory, options):
    models = [Plain(factory, **options), Plain(factory, foreach=False)]
    for model in models:
        optimizer = model.configure_optimizers()
        wanted = model is models[0] and not options and factory is not torch.optim.NAdam
        assert {group.get("fused") for group in optimizer.param_groups} == {True if wanted else None}
        for batch in BATCHES:
            optimizer.zero_grad()
            model.training_step(batch, 0).backward()
            optimizer.step()
    torch.testing.assert_close(models[0].layer.weight, models[1].layer.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_device_without_it_is_left_alone(device):
    (group, *_) = Plain().to(device).configure_optimizers().param_groups
    assert group["fused"] is (True if device == "cpu" else None)


def test_gradients_are_clipped_under_a_loss_scale(tmp_path):
    """Of an optimizer that was made with ``fused`` Lightning refuses it."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    ends = []
    for clip in (1e-3, None):
        model = Plain(torch.optim.SGD)
        before = model.layer.weight.detach().clone()
        trainer = L.Trainer(
            max_epochs=1, gradient_clip_val=clip, plugins=[plugin], accelerator="cpu", default_root_dir=tmp_path,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, torch.utils.data.DataLoader(BATCHES, batch_size=None))
        assert trainer.optimizers[0].param_groups[0]["fused"]
        ends.append((model.layer.weight - before).norm())
    assert 0 < ends[0] <= 6 * 0.05 * 1e-3 * 1.001, "six steps of the clipped length"
    assert ends[1] > 10 * ends[0]
