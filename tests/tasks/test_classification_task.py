"""The classification task: losses against timm's, published files, evaluation, prediction, two processes."""

import csv
import json
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from processes import in_two_processes
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from lk_downstream import create_classifier, load_weights
from lk_downstream.backbones import registry
from lk_downstream.backbones.formats import authors_names
from lk_downstream.cli import main
from lk_downstream.data import ClassificationData, ImageNet
from lk_downstream.data.synthetic import Synthetic
from lk_downstream.data.synthetic_layouts import write_imagenet
from lk_downstream.errors import InputError
from lk_downstream.export import Inside, network
from lk_downstream.tasks import Classification, load_task

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs" / "demo_classification.yaml")
SWAPPED = ("test_convnext", "test_replknet", "test_slak")
NAMES = ("a", "b", "c", "d", "e", "f")


def task(name="test_convnext", classes=NAMES, **options):
    model = Classification(create_classifier(name, num_classes=len(classes)), classes, **options)
    model.log = lambda *args, **options: None
    return model


def batch(number=4, size=64):
    images = torch.randint(0, 256, (number, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()
    return {"image": images, "label": torch.arange(number) % 6, "name": list("abcdefgh"[:number])}


def seeded(call, seed=3):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return call()


@pytest.mark.parametrize("options", [{}, {"cutmix": 0.0}, {"mixup": 0.0}], ids=["both", "mixup", "cutmix"])
def test_mixed_images_and_loss_are_timms(options):
    model, data = task(erasing=0.0, **options).eval(), batch()
    settings = {"mixup": 0.8, "cutmix": 1.0, **options}
    mix = Mixup(settings["mixup"], settings["cutmix"], label_smoothing=0.1, num_classes=6)
    for seed in range(5):
        inputs, target = seeded(lambda: mix(model.normalize(data["image"]), data["label"]), seed)
        expected = SoftTargetCrossEntropy()(model(inputs), target)
        found = seeded(lambda: model.training_step(data, 0), seed)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.1, 0.0])
def test_loss_without_mixing_is_timms(smoothing):
    model, data = task(mixup=0.0, cutmix=0.0, erasing=0.0, smoothing=smoothing).eval(), batch()
    expected = LabelSmoothingCrossEntropy(smoothing)(model(model.normalize(data["image"])), data["label"])
    torch.testing.assert_close(model.training_step(data, 0), expected, rtol=1e-6, atol=1e-7)


def test_erasing_puts_normal_noise_into_normalised_images():
    model = task(mixup=0.0, cutmix=0.0, erasing=1.0)
    images = torch.full((8, 3, 64, 64), 255, dtype=torch.uint8)
    inputs, _ = model.augmented(images, torch.zeros(8, dtype=torch.long))
    changed = inputs != model.normalize(images)
    share = changed[:, 0].float().mean((1, 2))
    assert ((share > 0.015) & (share < 0.34)).all()
    noise = inputs[changed]
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1, abs=0.1)


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(InputError, match="a device has 3 images in a batch"):
        task().training_step(batch(3), 0)


def test_chance_depends_on_seed_step_and_process_alone():
    class Trainer:
        global_step, global_rank = 7, 0

    model, drawn = task(), []
    for rank, position in ((0, 5), (0, 5), (1, 5), (0, 6)):
        trainer = Trainer()
        trainer.global_rank = rank
        model._trainer = trainer
        model.on_train_batch_start({}, position)
        drawn.append(np.random.rand())
    model._trainer = None
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("name", [*SWAPPED, "convnext_isotropic_small", "resnet18"])
def test_every_parameter_is_trained(name):
    model = task(name)
    model.training_step(batch(), 0).backward()
    assert [key for key, tensor in model.named_parameters() if tensor.grad is None] == []  # or DDP would refuse


def test_a_drop_path_rate_out_of_range():
    with pytest.raises(InputError, match=r"drop_path_rate is 1\.5: it must be"):
        create_classifier("test_convnext", drop_path_rate=1.5)


def test_another_number_of_outputs():
    with pytest.raises(InputError, match="test_convnext has 1000 outputs, but there are 6 classes"):
        Classification(create_classifier("test_convnext"), NAMES)


@pytest.mark.parametrize(("option", "value"), [("mixup", -1.0), ("smoothing", 1.5), ("erasing", 2.0)])
def test_options_out_of_range(option, value):
    with pytest.raises(InputError, match=f"model.{option} is"):
        task(**{option: value})


# ---------------------------------------------------------------- published files


def published(model, monkeypatch, tmp_path, name, classes, seed=1, **options):
    """Random weights of ``model`` under its authors' names, in a file that stands for the published ``name``."""
    torch.manual_seed(seed)
    source = timm.create_model(model, num_classes=classes, **options)
    names = dict(source.state_dict())
    if model.startswith("convnext"):
        names = authors_names(names)
    file = tmp_path / f"{name}.pth"
    torch.save({"model": names}, file)
    row = registry.Weights(model, name, str(file), num_classes=classes)
    monkeypatch.setitem(registry.PUBLISHED, model, {name: row})
    return source


SMALL = {
    "convnext_tiny": {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16)},
    "convnext_isotropic_small": {"depth": 2, "dim": 16},
    "replknet_31b": {"layers": (1, 1, 2, 1), "channels": (8, 8, 16, 16)},
    "slak_tiny": {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16)},
}


@pytest.mark.parametrize("model", SMALL)
def test_a_published_classifier_by_name_and_by_path(model, monkeypatch, tmp_path, randomized):
    source = published(model, monkeypatch, tmp_path, "in1k", 1000, **SMALL[model])
    images = torch.randn(2, 3, 64, 64)
    expected = randomized(source)
    torch.save({"model": authors_names(source.state_dict())}, tmp_path / "in1k.pth")
    for weights in ("in1k", str(tmp_path / "in1k.pth")):
        found = create_classifier(model, weights, **SMALL[model]).eval()
        assert found.missing == ()
        assert found.num_classes == 1000
        torch.testing.assert_close(found(images), expected(images), rtol=1e-5, atol=1e-5)
    whole = Classification(create_classifier(model, **SMALL[model]), tuple(map(str, range(1000)))).eval()
    report = load_weights(whole, "in1k", verbose=False)
    assert report.missing == report.unexpected == []
    torch.testing.assert_close(whole(images), expected(images), rtol=1e-5, atol=1e-5)


def test_isotropic_convnext_takes_the_authors_keys(tmp_path, randomized):
    """Those of models/convnext_isotropic.py in their repository."""
    source = randomized(timm.create_model("convnext_isotropic_small", depth=2, dim=16))
    names = source.state_dict()
    for ours, theirs in {"head.norm": "norm", "head.fc": "head", "conv_dw": "dwconv", "mlp.fc": "pwconv"}.items():
        names = {key.replace(ours, theirs): value for key, value in names.items()}
    assert {"stem.weight", "blocks.0.dwconv.weight", "blocks.1.pwconv2.bias", "norm.weight", "head.weight"} <= set(
        names
    )
    torch.save({"model": names}, tmp_path / "iso.pth")
    found = create_classifier("convnext_isotropic_small", str(tmp_path / "iso.pth"), depth=2, dim=16).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(found(images), source(images))


def test_a_classifier_for_other_classes_loses_its_last_layer_in_training(monkeypatch, tmp_path, capsys):
    source = published("convnext_tiny", monkeypatch, tmp_path, "in22k", 50, **SMALL["convnext_tiny"])
    found = create_classifier("convnext_tiny", "in22k", 6, head_init_scale=0.001, **SMALL["convnext_tiny"])
    assert set(found.missing) == {"head.fc.weight", "head.fc.bias"}
    assert "head.fc.weight left out: it is for other classes ((50, 16) in the file, (6, 16) in the model)" in (
        capsys.readouterr().out
    )
    assert torch.equal(found.body.head.norm.weight, source.head.norm.weight)
    assert torch.equal(found.body.stem[0].weight, source.stem[0].weight)
    assert 0 < found.body.head.fc.weight.abs().max() < 1e-4  # as head_init_scale says


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps: its folder, and the folder of the data."""
    folder = tmp_path_factory.mktemp("run")
    write_imagenet(folder / "data", Synthetic(train=8, val=7, size=(40, 48)))
    words = [*common(folder), "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.batch_size=4"]
    cli = main("fit", words)
    return Path(cli.trainer.log_dir), folder


def common(folder):
    options = {"trainer.default_root_dir": folder, "data.dataset.root": folder / "data"}
    options |= {"data.size": 32, "data.workers": 0, "trainer.num_sanity_val_steps": 0}
    return ["--config", DEMO, *(f"--{key}={value}" for key, value in options.items())]


def test_a_checkpoint_is_evaluated_and_loaded_by_itself(run):
    folder, root = run
    last = str(folder / "checkpoints" / "last.ckpt")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["last"]
    assert sum(metrics["calibration"]["count"]) == 7
    cli = main("validate", [*common(root), "--ckpt_path", last])
    assert cli.model.results["summary"] == pytest.approx(metrics["summary"], abs=1e-6)
    images = batch()["image"]
    loaded = load_task(last)
    assert loaded.classes == cli.model.classes
    assert len(loaded.classes) == 1000
    torch.testing.assert_close(loaded.logits(images), cli.model.eval().logits(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        network(loaded, Inside(False, False))(images), loaded.logits(images), rtol=1e-4, atol=1e-5
    )


def test_evaluation_by_weights_and_in_the_papers_form(run):
    folder, root = run
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    state = {key.removeprefix("backbone.body."): value for key, value in content["state_dict"].items()}
    torch.save({"model": authors_names(state)}, root / "authors.pth")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["last"]["summary"]
    for option in ("--model.weights", "--model.backbone.weights"):
        cli = main("validate", [*common(root), option, str(root / "authors.pth")])
        assert cli.model.results["summary"] == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("option", ["--model.weights", "--model.backbone.weights"])
def test_other_classes_are_refused_in_evaluation(run, option):
    _, root = run
    torch.save({"model": timm.create_model("test_convnext", num_classes=7).state_dict()}, root / "seven.pth")
    with pytest.raises(SystemExit, match=r"error: .*lacks? head\.fc\.weight|error: .*lacks backbone.*head\.fc\.weight"):
        main("validate", [*common(root), option, str(root / "seven.pth")])


def test_a_checkpoint_of_other_classes(run, tmp_path):
    folder, root = run
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    content["recipe"]["init_args"]["classes"][3] = "dragon"
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match="trained with the class 'dragon' where the data have 'tiger shark'"):
        main("validate", [*common(root), "--ckpt_path", str(tmp_path / "other.ckpt")])
    content["recipe"]["init_args"]["classes"] = ["ants", "bees"]
    torch.save(content, tmp_path / "other.ckpt")
    said = r"trained with 2 classes \(ants, bees\) where the data have 1000 \(tench, .*\): set --data.dataset"
    with pytest.raises(SystemExit, match=said):
        main("validate", [*common(root), "--ckpt_path", str(tmp_path / "other.ckpt")])


def test_prediction_writes_the_best_five(run, capsys):
    folder, root = run
    images = root / "own"
    images.mkdir()
    for number, size in enumerate([(50, 40), (30, 64)]):
        Image.new("RGB", size, (90 * number, 30, 30)).save(images / f"p{number}.png")
    cli = main(
        "predict",
        [*common(root), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--data.predict", str(images)],
    )
    found = json.loads((Path(cli.trainer.log_dir) / "predictions.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found] == ["p0", "p1"]
    assert all(len(row["classes"]) == len(row["scores"]) == 5 for row in found)
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in found)
    with open(Path(cli.trainer.log_dir) / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["name"] == "p1"
    assert rows[1]["class1"] == found[1]["classes"][0]
    assert float(rows[1]["score5"]) == pytest.approx(found[1]["scores"][4], abs=1e-6)
    assert f"p0: {found[0]['classes'][0]}" in capsys.readouterr().out


class Keeping(Classification):
    """Keeps its metrics."""

    def on_validation_epoch_end(self):
        self.computed = self.metric.compute()
        super().on_validation_epoch_end()

    def configure_callbacks(self):
        return []


def validate_and_fit(rank, devices, folder):
    lightning.seed_everything(0)
    data = ClassificationData(
        partial(ImageNet, root=folder / "imagenet", complete=False), batch_size=4, size=32, val_batch_size=1, workers=0
    )
    task = Keeping(create_classifier("test_convnext"), data.classes)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.validate(task, data, verbose=False)
    metrics = task.computed
    trainer.fit(task, data)  # DDP refuses the second step if a parameter was not used in the first
    if rank == 0:
        torch.save({name: metrics[name] for name in metrics}, folder / f"{devices}.pt")


def test_one_process_and_two_count_the_same_images(tmp_path):
    write_imagenet(tmp_path / "imagenet", Synthetic(train=8, val=7, size=(40, 48)))
    validate_and_fit(0, 1, tmp_path)
    in_two_processes(validate_and_fit, 2, tmp_path)
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    assert one["matrix"].sum() == one["bin_count"].sum() == 7  # which two processes cannot share evenly
    for name, value in one.items():
        assert torch.equal(value.nan_to_num(-1), two[name].nan_to_num(-1)), name
