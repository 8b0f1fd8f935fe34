"""The configs of classification: the published recipes, and one of each kind run for two steps and an evaluation."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from alike import one_of_each_kind

from lk_downstream.callbacks import AveragedWeights, DynamicSparsity
from lk_downstream.cli import main
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.synthetic_layouts import write_imagenet

FOLDER = Path(__file__).parents[1] / "configs"
CONTENT = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}
STEMS = [stem for stem, content in CONTENT.items() if content["model"]["class_path"] == "Classification"]
# Of every family, a network of the same structure that a CI machine trains in a second.
SMALL = {
    "convnext": {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]},
    "convnext_isotropic": {"depth": 2, "dim": 16},
    "replknet": {"layers": [1, 1, 2, 1], "channels": [8, 8, 16, 16]},
    "slak": {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]},
    "test": {},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Generated images in ImageNet's layout."""
    root = tmp_path_factory.mktemp("images") / "imagenet"
    write_imagenet(root, Synthetic(train=12, val=7, size=(48, 64)))
    return root


@pytest.mark.parametrize("stem", one_of_each_kind(CONTENT, STEMS))
def test_two_steps_and_one_evaluation(stem, images, tmp_path, monkeypatch, without_plots):
    monkeypatch.chdir(tmp_path)
    content = CONTENT[stem]
    name = content["model"]["init_args"]["backbone"]["init_args"]["name"]
    family = next(family for family in sorted(SMALL, reverse=True) if name.startswith(family))
    data = content["data"]["init_args"]
    many = "ImageNet22K" in data["dataset"]["class_path"]
    own = data["dataset"]["class_path"].endswith("ClassFolder")
    overrides = {
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": str(tmp_path),
        "trainer.max_steps": 2,
        "trainer.num_sanity_val_steps": 0,
        "trainer.log_every_n_steps": 1,
        "checkpoint.save_top_k": 0,
        "model.backbone.weights": "null",
        "data.dataset.root": str(images / "train" if many else images),
        "data.batch_size": 4,
        "data.size": 32,
        "data.workers": 0,
    }
    if not own:
        overrides["data.dataset.complete"] = "false"
    if not many:
        overrides["trainer.val_check_interval"] = 2
    if SMALL[family]:
        given = content["model"]["init_args"]["backbone"].get("dict_kwargs", {})
        overrides["model.backbone.dict_kwargs"] = json.dumps({**given, **SMALL[family]})
    cli = main(
        "fit", ["--config", str(FOLDER / f"{stem}.yaml"), *(f"--{key}={value}" for key, value in overrides.items())]
    )
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert cli.model.backbone.num_classes == len(cli.model.classes) == (21841 if many else 6 if own else 1000)
    assert ("val/top1" in cli.trainer.callback_metrics) != many
    assert sum(cli.model.results.get("calibration", {"count": [0]})["count"]) == (0 if many else 7)


# backbone, drop path, size, batch, steps, warm-up, rate, weight decay, last rate, layer decay, mixed, averaged
ROWS = {
    "convnext_tiny_imagenet1k": ("convnext_tiny", 0.1, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "convnext_small_imagenet1k": ("convnext_small", 0.4, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "convnext_base_imagenet1k": ("convnext_base", 0.5, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "convnext_large_imagenet1k": ("convnext_large", 0.5, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "convnext_isotropic_small_imagenet1k": (
        ("convnext_isotropic_small", 0.1, 224, 4096, 93600, 15600, 4e-3, 0.05, 1e-6, None, True, True)
    ),
    "convnext_isotropic_base_imagenet1k": (
        ("convnext_isotropic_base", 0.2, 224, 4096, 93600, 15600, 4e-3, 0.05, 1e-6, None, True, True)
    ),
    "convnext_isotropic_large_imagenet1k": (
        ("convnext_isotropic_large", 0.5, 224, 4096, 93600, 15600, 4e-3, 0.05, 1e-6, None, True, True)
    ),
    "convnext_base_imagenet22k": ("convnext_base", 0.1, 224, 4096, 311940, 17330, 4e-3, 0.05, 1e-6, None, True, False),
    "convnext_large_imagenet22k": (
        ("convnext_large", 0.1, 224, 4096, 311940, 17330, 4e-3, 0.05, 1e-6, None, True, False)
    ),
    "convnext_xlarge_imagenet22k": (
        ("convnext_xlarge", 0.2, 224, 4096, 311940, 17330, 4e-3, 0.05, 1e-6, None, True, False)
    ),
    "convnext_base_imagenet1k_384": ("convnext_base", 0.8, 384, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.7, False, False),
    "convnext_large_imagenet1k_384": ("convnext_large", 0.95, 384, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.7, False, False),
    "convnext_base_imagenet1k_22k": ("convnext_base", 0.2, 224, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, False),
    "convnext_large_imagenet1k_22k": ("convnext_large", 0.3, 224, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, False),
    "convnext_xlarge_imagenet1k_22k": ("convnext_xlarge", 0.4, 224, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, True),
    "convnext_base_imagenet1k_22k_384": ("convnext_base", 0.2, 384, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, False),
    "convnext_large_imagenet1k_22k_384": (
        ("convnext_large", 0.3, 384, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, False)
    ),
    "convnext_xlarge_imagenet1k_22k_384": (
        ("convnext_xlarge", 0.4, 384, 512, 75060, 0, 5e-5, 1e-8, 1e-6, 0.8, False, True)
    ),
    "replknet31b_imagenet1k": ("replknet_31b", 0.5, 224, 2048, 187500, 6250, 4e-3, 0.05, 1e-6, None, True, True),
    "replknet31b_imagenet1k_384": ("replknet_31b", 0.8, 384, 1024, 37530, 1251, 4e-4, 1e-8, 1e-6, 0.7, False, True),
    "replknet31b_imagenet22k": ("replknet_31b", 0.1, 224, 4096, 311940, 17330, 4e-3, 0.05, 1e-6, None, True, False),
    "replknet31l_imagenet22k": ("replknet_31l", 0.1, 224, 4096, 311940, 17330, 4e-3, 0.05, 1e-6, None, True, False),
    "replknet31b_imagenet1k_22k": ("replknet_31b", 0.2, 224, 512, 75060, 2502, 4e-4, 1e-8, 1e-6, 0.7, False, True),
    "replknet31b_imagenet1k_22k_384": ("replknet_31b", 0.3, 384, 512, 75060, 2502, 4e-4, 1e-8, 3e-4, 0.7, False, True),
    "replknet31l_imagenet1k_22k_384": ("replknet_31l", 0.3, 384, 512, 75060, 2502, 4e-4, 1e-8, 3e-4, 0.7, False, True),
    "slak_tiny_imagenet1k": ("slak_tiny", 0.1, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "slak_small_imagenet1k": ("slak_small", 0.4, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
    "slak_base_imagenet1k": ("slak_base", 0.5, 224, 4096, 93600, 6240, 4e-3, 0.05, 1e-6, None, True, True),
}


@pytest.mark.parametrize("stem", ROWS)
def test_published_recipe(stem, monkeypatch):
    """The composed objects, not the file's text: what defaults say counts too."""
    name, drop, size, batch, steps, warmup, rate, decay, last, layers, mixed, averaged = ROWS[stem]
    seen = {}

    def stop(cli):
        seen["cli"] = cli
        raise SystemExit(0)

    monkeypatch.setattr("lk_downstream.cli.CLI.after_instantiate_classes", stop)
    with torch.device("meta"), pytest.raises(SystemExit):  # print_groups: without weights
        main("fit", ["--config", str(FOLDER / f"{stem}.yaml"), "--print_groups"])
    task, data, trainer = seen["cli"].model, seen["cli"].datamodule, seen["cli"].trainer
    assert task.backbone.name == name
    rates = [module.drop_prob for module in task.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(drop)
    assert (data.batch_size, trainer.max_steps) == (batch, steps)
    crop = data.train_transform.crop
    assert (tuple(crop.size), crop.scale, crop.ratio) == ((size, size), (0.08, 1.0), (3 / 4, 4 / 3))
    assert data.train_transform.flip.p == 0.5
    operations = data.train_transform.colours.transforms[0]
    assert (operations.num_layers, len(operations.ops)) == (2, 15)
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in operations.ops} == {(9, 0.5, 0.5)}
    resize, crop = data.val_transform.steps.transforms
    assert (resize.size, crop.size) == ([384, 384] if size == 384 else [256], (size, size))
    optimizer = task.groups.optimizer(task, task.optimizer_factory)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(rate)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-8)
    schedule = task.schedule_factory(optimizer, steps)
    assert schedule.warmup_steps == warmup
    assert schedule.factor(steps) * rate == pytest.approx(last)
    assert schedule.factor(0) == (0 if warmup else 1)
    decays = task.groups.layer_decay
    assert (decays and (decays.rate, decays.by, decays.layers)) == (layers and (layers, "layer", 12))
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == (14 if layers else 1)
    assert task.groups.no_decay == "vectors"
    assert (task.mix is not None) == mixed
    assert (task.smoothing, task.erasing) == (0.1, 0.25)
    if mixed:
        mix = task.mix
        assert (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob, mix.mode) == (
            0.8,
            1.0,
            1.0,
            0.5,
            "batch",
        )
    found = {type(callback): callback for callback in trainer.callbacks}
    assert (AveragedWeights in found) == averaged
    if averaged:
        assert found[AveragedWeights].decay == 0.9999
    if "slak" in stem:
        sparsity = found[DynamicSparsity]
        released = (0.5, 2000) if "tiny" in stem else (0.3, 100)
        assert (sparsity.sparsity, sparsity.init, sparsity.growth) == (0.4, "snip", "random")
        assert (sparsity.prune_rate, sparsity.update_every) == released


def test_every_published_recipe_is_looked_at():
    assert set(STEMS) - set(ROWS) == {"demo_classification", "convnext_atto_folder"}
