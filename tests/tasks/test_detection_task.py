"""The detection task from the command line: metrics, files, several processes, and targets of every kind."""

import contextlib
import inspect
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from alike import one_of_each_kind
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lk_downstream import create_backbone, load_weights, machine
from lk_downstream import detectors as d
from lk_downstream.cli import main
from lk_downstream.commands import run
from lk_downstream.data import Coco, Synthetic
from lk_downstream.errors import InputError
from lk_downstream.metrics.coco import METRICS
from lk_downstream.metrics.coco_results import score_file
from lk_downstream.tasks import Detection, load_task

ROOT = Path(__file__).parents[2]
CLASSES = ("a", "b", "c")
MASK = "mask_rcnn_convnext_tiny_coco"
NARROW = {
    "model.detector.neck.channels": 16,
    "model.detector.rpn.train.keep": 40,
    "model.detector.rpn.test.keep": 40,
    "model.detector.rpn.sampler.number": 32,
    "model.detector.roi.sampler.number": 32,
    "model.detector.roi.box.fc_channels": 16,
    "model.detector.roi.box.conv_channels": 16,
    "model.detector.roi.mask.channels": 16,
}
# A config of each family, with a network of the same structure that trains in a second.
FAMILIES = {
    MASK: ({"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]}, NARROW),
    "cascade_mask_rcnn_slak_tiny_coco": ({"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]}, NARROW),
    "fcos_replknet31b_coco": (
        {"layers": [1, 1, 2, 1], "channels": [8, 8, 16, 16]},
        {"model.detector.neck.channels": 16, "model.detector.head.channels": 16},
    ),
}
CONTENT = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "configs").glob("*.yaml"))
}
DETECTION = [stem for stem in CONTENT if CONTENT[stem]["model"]["class_path"] == "Detection"]
OTHERS = [stem for stem in one_of_each_kind(CONTENT, DETECTION) if stem not in FAMILIES]
SYNTHETIC = Synthetic(train=6, val=11, size=(40, 60))  # the tenth validation image has no object


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "coco"
    Coco("train", root).write_synthetic(SYNTHETIC)
    return root


def words(stem, root, folder, **more):
    """The command line for a published config made small."""
    network, narrow = FAMILIES.get(stem) or ({}, NARROW)
    options = {
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 2,
        "trainer.val_check_interval": 2,
        "trainer.num_sanity_val_steps": 0,
        "trainer.log_every_n_steps": 1,
        "model.backbone.weights": "null",
        "model.backbone.dict_kwargs": network,
        "data.dataset.root": root,
        "data.batch_size": 2,
        "data.scale": [90, 60],
        "data.augmentation": [{"class_path": "MultiScale", "init_args": {"short": [40, 56]}}],
        "data.workers": 0,
        **narrow,
        **more,
    }
    values = {name: value if isinstance(value, (str, Path)) else json.dumps(value) for name, value in options.items()}
    return [
        "--config",
        str(ROOT / "configs" / f"{stem}.yaml"),
        *(f"--{name}={value}" for name, value in values.items()),
    ]


def pycocotools_metrics(annotations, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def check_metrics(folder, root, kinds):
    """The metrics of metrics.json are pycocotools' on the written files, to the last digit."""
    summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["last"]["summary"]
    assert list(summary) == [f"{kind}_{name}" for kind in kinds for name in METRICS]
    for kind in kinds:
        file = folder / f"results.{kind}.json"
        expected = pycocotools_metrics(root / "annotations/instances_val2017.json", file, kind)
        found = [summary[f"{kind}_{name}"] for name in METRICS]
        assert [-1.0 if value is None else value for value in found] == expected
        assert ("bbox" in json.loads(file.read_text(encoding="utf-8"))[0]) == (kind == "bbox")
    return summary


@pytest.mark.parametrize("stem", FAMILIES)
def test_published_configs_run_and_are_scored_as_by_pycocotools(stem, root, tmp_path, capsys):
    kinds = ("bbox",) if "fcos" in stem else ("bbox", "segm")
    precision = yaml.safe_load((ROOT / "configs" / f"{stem}.yaml").read_text(encoding="utf-8"))["trainer"].get(
        "precision", "32-true"
    )
    options = {"model.detector.head.test.score_threshold": 0.001} if "fcos" in stem else {}
    if "fcos" not in stem:
        options = {"model.detector.roi.test.score_threshold": 0.001, "model.backbone.grad_checkpointing": True}
    cli = main("fit", words(stem, root, tmp_path, **options))
    assert cli.trainer.global_step == 2
    assert cli.trainer.precision == ("32-true" if machine.slow_type(precision) else precision)
    folder = next(tmp_path.glob("*/run_0"))
    check_metrics(folder, root, kinds)
    logged = cli.trainer.callback_metrics
    parts = [value for name, value in logged.items() if name.startswith("train/") and "loss_" in name]
    assert len(parts) == {"mask": 5, "casc": 11, "fcos": 3}[stem[:4]]
    assert logged["train/loss"].item() == pytest.approx(sum(parts).item(), rel=1e-5)
    assert (folder / "predictions.png").stat().st_size > 10_000
    table = capsys.readouterr().out
    assert "toothbrush" in table
    assert ("mask AP" in " ".join(table.split()) or "mask" in table) == (len(kinds) == 2)

    checkpoint = folder / "checkpoints" / "last.ckpt"
    config = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(checkpoint)]
    main("predict", [*config, f"--data.predict={root / 'val2017'}", f"--trainer.default_root_dir={tmp_path / 'again'}"])
    files = next(tmp_path.glob("again/*/prediction_0"))
    assert len(list((files / "images").glob("*.png"))) == SYNTHETIC.val
    rows = json.loads((files / "detections" / "000000500001.json").read_text(encoding="utf-8"))
    written = json.loads((folder / "results.bbox.json").read_text(encoding="utf-8"))
    expected = [row["bbox"] for row in written if row["image_id"] == 500001]
    assert [row["bbox"] for row in rows] == [pytest.approx(box, abs=1e-3) for box in expected]
    assert {row["class"] for row in rows} <= set(cli.model.classes)
    for kind in kinds:  # the same as evaluated, by the ids of the annotation file
        again = score_file(root / "annotations/instances_val2017.json", files / f"results.{kind}.json").metrics
        assert again["AP"] == pytest.approx(cli.trainer.callback_metrics[f"val/{kind}_AP"].item(), abs=1e-3)
    assert all(("segmentation" in row) == (len(kinds) == 2) for row in rows)

    task = load_task(checkpoint)
    assert task.kinds == kinds
    item = Coco("val", root)[0]
    with torch.no_grad():
        (found,) = task.predict(item["image"][None], torch.tensor([[40, 60]]), [torch.tensor([40, 60])])
    assert found["boxes"].shape == (len(found["scores"]), 4)
    assert ("masks" in found) == (len(kinds) == 2)


@pytest.mark.parametrize("stem", OTHERS)
def test_the_other_configs_train_a_step(stem, root, tmp_path, without_plots):
    family = CONTENT[stem]["model"]["init_args"]["backbone"]["init_args"]["name"]
    networks = dict(zip(("convnext", "slak", "replknet"), (network for network, _ in FAMILIES.values())))
    options = {
        "trainer.max_steps": 1,
        "trainer.limit_val_batches": 0,
        "model.backbone.dict_kwargs": next((n for name, n in networks.items() if family.startswith(name)), {}),
    }
    cli = main("fit", words(stem, root, tmp_path, **options))
    assert cli.trainer.global_step == 1
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


def test_two_processes_with_different_numbers_of_images(root, tmp_path):
    options = {"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.precision": "32-true"}
    options |= {"model.detector.roi.test.score_threshold": 0.001}
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "fit.py"), *words(MASK, root, tmp_path, **options)],
        check=True,
        timeout=300,
        cwd=tmp_path,
    )
    folder = next(tmp_path.glob("*/run_0"))
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["processes"] == 2
    check_metrics(folder, root, ("bbox", "segm"))
    assert (
        len({row["image_id"] for row in json.loads((folder / "results.bbox.json").read_text(encoding="utf-8"))}) == 11
    )
    assert (folder / "predictions.png").exists()


def test_no_detections_at_all(root, tmp_path):
    cli = main("fit", words(MASK, root, tmp_path, **{"model.detector.roi.test.score_threshold": 1.0}))
    folder = next(tmp_path.glob("*/run_0"))
    for kind in ("bbox", "segm"):
        assert json.loads((folder / f"results.{kind}.json").read_text(encoding="utf-8")) == []
        assert cli.model.results["summary"][f"{kind}_AP"] == 0
    assert math.isnan(cli.model.results["summary"]["bbox_APl"])  # no object is that large


def test_no_ground_truth_at_all(root, tmp_path):
    content = json.loads((root / "annotations/instances_val2017.json").read_text(encoding="utf-8"))
    content["annotations"] = []
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017", "annotations/instances_train2017.json"):
        (tmp_path / "data" / name).symlink_to(root / name)
    (tmp_path / "data/annotations/instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    cli = main("fit", words("fcos_replknet31b_coco", tmp_path / "data", tmp_path))
    assert all(math.isnan(value) for value in cli.model.results["summary"].values())
    assert (
        json.loads(next(tmp_path.glob("*/run_0/metrics.json")).read_text(encoding="utf-8"))["last"]["summary"][
            "bbox_AP"
        ]
        is None
    )


def tiny(detector, **settings):
    """A task whose detector is as published but narrow."""
    torch.manual_seed(0)
    narrow = {"neck": {"channels": 16}, "head": {"channels": 16}}
    narrow["roi"] = {"box": {"conv_channels": 16, "fc_channels": 16}, "mask": {"channels": 16}}
    parameters = inspect.signature(detector).parameters
    for name in narrow.keys() & parameters.keys() - settings.keys():
        value = parameters[name].default
        changes = {
            key: replace(getattr(value, key), **change) if isinstance(change, dict) else change
            for key, change in narrow[name].items()
        }
        settings[name] = replace(value, **changes)
    return Detection(create_backbone("test_convnext"), partial(detector, **settings), CLASSES, channels_last=False)


def batch(boxes, size=(40, 60), crowd=False, labels=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    target = {
        "boxes": boxes,
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "iscrowd": torch.full((len(boxes),), crowd),
        "masks": masks,
        "image_id": 1,
    }
    torch.manual_seed(1)
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    return {"image": image, "size": torch.tensor([size, size]), "target": [target, target], "name": ["a", "b"]}


BATCHES = {
    "no objects": batch([]),
    "crowds only": batch([[5, 5, 30, 30]], crowd=True),
    "no area": batch([[5, 5, 5, 30], [7, 9, 20, 9]]),
    "one pixel": batch([[5, 5, 6, 6]]),
    "image smaller than the largest stride": batch([[1, 1, 5, 4]], size=(8, 9)),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("detector", [d.MaskRCNN, d.CascadeMaskRCNN, d.FCOS, d.RetinaNet])
def test_degenerate_targets_train_and_leave_no_parameter_out(detector, kind):
    task = tiny(detector)
    task.log = task.log_dict = lambda *args, **kwargs: None
    loss = task.training_step(BATCHES[kind], 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert detector in (d.FCOS, d.RetinaNet) or all(parameter.requires_grad for parameter in task.parameters())
    for name, parameter in task.named_parameters():
        if name.startswith("backbone.norm0") and detector in (d.FCOS, d.RetinaNet):
            assert not parameter.requires_grad  # they leave the finest map out
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_names_are_mmdetections(tmp_path):
    task = tiny(d.CascadeMaskRCNN)
    keys = task.state_dict()
    assert {key.split(".")[0] for key in keys} == {"backbone", "neck", "rpn_head", "roi_head"}
    assert "roi_head.bbox_head.2.shared_convs.3.bn.weight" in keys
    assert len({value.data_ptr() for value in task.parameters()}) == len(list(task.parameters()))
    file = tmp_path / "mmdet.pth"
    torch.save(
        {"meta": {}, "state_dict": {key.replace("backbone.body.", "backbone."): v for key, v in keys.items()}}, file
    )
    other = tiny(d.CascadeMaskRCNN)
    for parameter in other.parameters():
        parameter.data.zero_()
    report = load_weights(other, str(file), verbose=False)
    assert not report.missing
    assert not report.unexpected
    for key, value in other.state_dict().items():
        assert torch.equal(value, keys[key]), key


def test_boxes_are_decoded_in_float32_under_autocast():
    task = tiny(d.MaskRCNN).eval()
    heads = task.detector.rpn_head, task.detector.roi_head  # a CPU without bfloat16 takes a minute for all regions
    for head, test in zip(heads, ({"keep": 50}, {"score_threshold": 0.0, "keep": 10})):
        head.settings = replace(head.settings, test=replace(head.settings.test, **test))
    data = BATCHES["one pixel"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = task.predict(data["image"], data["size"], [torch.tensor([80, 120])] * 2)
    for detection in found:
        assert detection["boxes"].dtype == detection["scores"].dtype == torch.float32
        assert len(detection["boxes"])
        assert not torch.equal(detection["boxes"], detection["boxes"].bfloat16().float())
        assert detection["masks"].shape[1:] == (80, 120)
        assert (detection["boxes"] <= torch.tensor([120, 80, 120, 80]) + 1e-3).all()


def test_masks_that_are_missing_are_named(root, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"mask heads but the targets no masks: .*data\.masks"):
        main("fit", words(MASK, root, tmp_path, **{"data.masks": False}))


def test_validation_needs_annotations(root):
    task = tiny(d.FCOS)
    task._trainer = type("Trainer", (), {"datamodule": None})()
    with pytest.raises(InputError, match="use DetectionData"):
        task.on_validation_epoch_start()


def test_a_checkpoint_of_other_classes_is_refused_by_its_classes():
    checkpoint = {"state_dict": {}, "recipe": {"init_args": {"classes": ["dog", "cat"]}}}
    with pytest.raises(
        InputError, match=r"trained with 2 classes \(dog, cat\) where the data have 3 \(a, b, c\): set --data.dataset"
    ):
        tiny(d.FCOS).on_load_checkpoint(checkpoint)


def test_existing_results_are_scored(root, tmp_path, capsys):
    annotations = root / "annotations/instances_val2017.json"
    truth = json.loads(annotations.read_text(encoding="utf-8"))
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
    ]
    results = tmp_path / "results.bbox.json"
    results.write_text(json.dumps(rows), encoding="utf-8")

    def scored(file):
        return run("evaluate", ["--results", str(file), "--annotations", str(annotations)])

    assert scored(results) == 0
    printed = capsys.readouterr().out
    assert "all" in printed
    assert "100.00" in printed
    assert scored(tmp_path / "absent.json") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent.json'}: cannot be read (No such file or directory)\n"
