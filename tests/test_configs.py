"""Every file of configs/: instantiated at its own size; of segmentation one of each kind run."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from alike import one_of_each_kind

from lk_downstream.cli import CLI, main
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.synthetic_layouts import write_cityscapes

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
CONTENT = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONFIGS}
# Those of classification are in test_classification_configs.py.
DOWNSTREAM = [path for path in CONFIGS if CONTENT[path.stem]["model"]["class_path"] != "Classification"]
SEGMENTATION = [stem for stem in CONTENT if CONTENT[stem]["model"]["class_path"].endswith("Segmentation")]
# Of every family, a network of the same structure that a CI machine trains in a second.
SMALL = {
    "convnext": {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]},
    "replknet": {"layers": [1, 1, 2, 1], "channels": [8, 8, 16, 16]},
    "slak": {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]},
    "test": {},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def own_images(root):
    """Generated images and masks in the layout of SegmentationFolder."""
    write_cityscapes(root.with_name("streets"), Synthetic(train=4, val=1, size=(48, 64)))
    for split in ("train", "val"):
        for kind, tree in (("images", "leftImg8bit"), ("annotations", "gtFine")):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for number, file in enumerate(sorted((root.with_name("streets") / tree / split).rglob("*.png"))):
                file.rename(folder / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(f"label {number}" for number in range(34)), encoding="utf-8")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_form(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert 20 <= len(lines) <= 40


@pytest.mark.parametrize("stem", one_of_each_kind(CONTENT, SEGMENTATION))
def test_two_steps_and_one_image(stem, tmp_path, capsys, without_plots):
    model = CONTENT[stem]["model"]["init_args"]
    family = model["backbone"]["init_args"]["name"].split("_")[0]
    overrides = {
        "trainer.default_root_dir": tmp_path / "runs",
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.num_sanity_val_steps": 0,
        "trainer.log_every_n_steps": 1,
        "checkpoint.save_top_k": 0,
        "model.backbone.weights": "null",
        "model.head.channels": 8,
        "model.auxiliary_head.channels": 8,
        "model.inference.scale": [96, 48],
        "data.dataset.root": tmp_path / "data",
        "data.synthetic": {"train": 4, "val": 1, "size": [48, 64]},
        "data.batch_size": 2,
        "data.crop_size": 49 if "align_corners" in str(model.get("head")) else 48,
        "data.scale": [96, 48],
        "data.workers": 0,
    }
    if model["inference"]["class_path"] == "Slide":
        overrides |= {"model.inference.crop": 32, "model.inference.stride": 21}
    if SMALL[family]:
        overrides["model.backbone.dict_kwargs"] = SMALL[family]
    if "SegmentationFolder" in str(CONTENT[stem]["data"]):
        own_images(tmp_path / "data")
        del overrides["data.synthetic"]
    words = [
        f"--{name}={value if isinstance(value, (str, Path)) else json.dumps(value)}"
        for name, value in overrides.items()
    ]
    cli = main("fit", ["--config", str(CONFIGS[0].with_name(f"{stem}.yaml")), *words])
    assert cli.trainer.global_step == 2
    assert cli.trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.completed == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    assert 0 <= cli.trainer.callback_metrics["val/mIoU"] <= 1
    assert len(cli.model.classes) == cli.model.head.conv_seg.out_channels == len(cli.datamodule.classes)
    assert "mIoU" in capsys.readouterr().out


# backbone, drop path, crop, batch, steps, rate, warm-up, long side of the scale, stride of windows, ids of the decay
ROWS = {
    "upernet_convnext_tiny_ade20k": ("convnext_tiny", 0.4, 512, 16, 160000, 1e-4, 1500, 2048, 341, 6),
    "upernet_convnext_small_ade20k": ("convnext_small", 0.3, 512, 16, 160000, 1e-4, 1500, 2048, 341, 12),
    "upernet_convnext_base_ade20k": ("convnext_base", 0.4, 512, 16, 160000, 1e-4, 1500, 2048, 341, 12),
    "upernet_convnext_base_ade20k_640": ("convnext_base", 0.4, 640, 16, 160000, 1e-4, 1500, 2560, 426, 12),
    "upernet_convnext_large_ade20k_640": ("convnext_large", 0.4, 640, 16, 160000, 1e-4, 1500, 2560, 426, 12),
    "upernet_convnext_xlarge_ade20k_640": ("convnext_xlarge", 0.4, 640, 16, 160000, 8e-5, 1500, 2560, 426, 12),
    "upernet_replknet31b_ade20k": ("replknet_31b", 0.5, 512, 128, 40000, 2e-4, 400, 2048, None, None),
    "upernet_replknet31b_ade20k_640": ("replknet_31b", 0.3, 640, 128, 40000, 2e-4, 400, 2048, 426, None),
    "upernet_replknet31l_ade20k_640": ("replknet_31l", 0.3, 640, 64, 80000, 2e-4, 800, 2048, 426, None),
    "upernet_replknetxl_ade20k_640": ("replknet_xl", 0.5, 640, 32, 160000, 2e-4, 1500, 2048, 426, None),
    "upernet_replknet31b_cityscapes": ("replknet_31b", 0.5, 769, 64, 20000, 2e-4, 400, 2049, None, None),
    "upernet_slak_tiny_ade20k": ("slak_tiny", 0.4, 512, 16, 160000, 1e-4, 1500, 2048, 341, 6),
    "upernet_slak_small_ade20k": ("slak_small", 0.3, 512, 16, 160000, 1e-4, 1500, 2048, 341, 12),
    "upernet_slak_base_ade20k": ("slak_base", 0.4, 512, 16, 160000, 1e-4, 1500, 2048, 341, 12),
    "upernet_slak_tiny_ade20k_80k": ("slak_tiny", 0.1, 512, 16, 80000, 2e-4, 800, 2048, 341, None),
}


def check_recipe(cli, stem):
    """The composed objects, not the file's text: what defaults say counts too."""
    name, drop, crop, batch, steps, rate, warmup, long_side, stride, layers = ROWS[stem]
    task, data, trainer = cli.model, cli.datamodule, cli.trainer
    scale = (long_side, {2048: 512, 2560: 640, 2049: 1025}[long_side])
    assert task.backbone.name == name
    rates = [module.drop_prob for module in task.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(drop)
    assert (data.crop_size, data.batch_size) == ((crop, crop), batch)
    assert trainer.max_steps == steps
    optimizer = task.groups.optimizer(task, task.optimizer_factory)
    assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(rate)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    schedule = task.schedule_factory(optimizer, steps)
    assert (schedule.warmup_steps, schedule.warmup_ratio, schedule.power, schedule.form) == (warmup, 1e-6, 1.0, "mmcv")
    assert tuple(task.inference.scale) == scale
    assert getattr(task.inference, "stride", None) == (stride and (stride, stride))
    assert getattr(task.inference, "crop", (crop, crop)) == (crop, crop)
    decay = task.groups.layer_decay
    assert (decay and (decay.rate, decay.by, decay.layers)) == (layers and (0.9, "stage", layers))
    assert task.groups.no_decay == ("vectors" if layers else "batch_norms")
    align = "cityscapes" in stem
    assert task.head.align_corners == task.auxiliary_head.align_corners == align
    assert task.auxiliary_weight == 0.4
    half = name == "replknet_xl"
    assert task.backbone.mean == ((0.5,) * 3 if half else (0.485, 0.456, 0.406))
    norms = [
        key for key in task.backbone.state_dict() if ".norm.weight" in key and key.startswith("body.stages.0.norm")
    ]
    assert len(norms) == half


@pytest.mark.parametrize("path", DOWNSTREAM, ids=lambda path: path.stem)
def test_instantiated_at_its_own_size_by_the_published_recipe(path, capsys, monkeypatch):
    if "SegmentationFolder" in str(CONTENT[path.stem]["data"]):  # whose classes stand in a file
        own_images(Path("data/own"))
    made, after = [], CLI.after_instantiate_classes
    monkeypatch.setattr(CLI, "after_instantiate_classes", lambda cli: (made.append(cli), after(cli)))
    with torch.device("meta"), pytest.raises(SystemExit) as stop:  # no memory, no data, no weights
        main("fit", ["--config", str(path), "--print_groups"])
    assert stop.value.code == 0
    assert "parameters" in capsys.readouterr().out
    if path.stem in ROWS:
        check_recipe(made[0], path.stem)


MULTI_SCALE = [path for path in CONFIGS if "multi-scale" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", MULTI_SCALE, ids=lambda path: path.stem)
def test_the_multi_scale_rule_of_the_first_lines(path, capsys):
    value = re.search(r"--model.inference (.*)", path.read_text(encoding="utf-8"))[1].strip("'")
    with pytest.raises(SystemExit):
        main("validate", ["--config", str(path), "--model.inference", value, "--print_config"])
    inference = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["inference"]
    assert inference["class_path"].endswith(".MultiScale")
    # ConvNeXt's are of whole images; RepLKNet's by the rule of the single-scale result (recipes of the authors).
    rule, single = inference["init_args"]["rule"], CONTENT[path.stem]["model"]["init_args"]["inference"]
    kind, options = ("Whole", {}) if rule is None else (rule["class_path"].split(".")[-1], rule["init_args"])
    assert kind == ("Whole" if "convnext" in path.stem else single["class_path"])
    single = single.get("init_args", {})
    assert list(options.get("scale", [2048, 512])) == single.get("scale", [2048, 512])
    assert kind == "Whole" or options["crop"] == single["crop"]
