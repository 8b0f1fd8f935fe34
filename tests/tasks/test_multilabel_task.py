"""Several labels an image: loss, metrics, a whole run from a table, and data of the other kind."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lk_downstream import create_classifier
from lk_downstream.cli import main
from lk_downstream.tasks import MultiLabelClassification, load_task

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "convnext_atto_folder.yaml")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_binary_cross_entropy(smoothing):
    backbone = create_classifier("test_convnext", num_classes=3)
    model = MultiLabelClassification(backbone, ("a", "b", "c"), smoothing=smoothing, erasing=0.0).eval()
    model.log = lambda *args, **options: None
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    logits = model(model.normalize(images)).double()
    smoothed = labels.double() * (1 - smoothing) + smoothing / 2
    expected = -(smoothed * F.logsigmoid(logits) + (1 - smoothed) * F.logsigmoid(-logits)).mean()
    found = model.training_step({"image": images, "labels": labels}, 0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Twelve images, each with the colours that it has as labels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        rows = ["file,label"]
        for number in range(count):
            present = rng.permutation(3)[: 1 + number % 3]
            pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[..., present] += 120
            Image.fromarray(pixels).save(tmp_path / f"{split}{number}.png")
            rows.append(f"{split}{number}.png,{'|'.join(('red', 'green', 'blue')[at] for at in present)}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def words(*others, task="MultiLabelClassification"):
    return [
        *("--config", CONFIG, "--model", task, "--data.dataset", "ClassTable", "--data.dataset.root", "."),
        *("--data.dataset.separator", "|", "--data.batch_size", "4", "--data.size", "32", "--data.workers", "0"),
        *("--model.backbone.name", "test_convnext", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null"),
        *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2", *others),
    ]


def test_a_run_from_a_table(table, capsys):
    main("fit", words())
    run = next(table.glob("runs/*/run_*"))
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["best"]
    assert set(found["summary"]) == {"mAP", "F1"}
    assert found["classes"]["class"] == ["blue", "green", "red"]
    rows = list(csv.DictReader((run / "per_image.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["name"] for row in rows} == {f"val{number}.png" for number in range(4)}
    assert list(rows[0]) == ["name", "probability", "loss", "truth", "missed", "wrong"]
    checkpoint = str(next(run.glob("checkpoints/last.ckpt")))
    assert type(load_task(checkpoint)) is MultiLabelClassification
    main("predict", words("--data.predict", "val0.png", "--ckpt_path", checkpoint))
    [row] = csv.DictReader(next(table.glob("**/predictions.csv")).read_text(encoding="utf-8").splitlines())
    assert {row["class1"], row["class2"], row["class3"]} == {"red", "green", "blue"}
    capsys.readouterr()


def test_data_of_the_other_kind(table):
    with pytest.raises(SystemExit, match="several labels an image: set model to MultiLabelClassification"):
        main("fit", words(task="Classification"))
