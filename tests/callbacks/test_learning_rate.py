"""The range test of the learning rate, with parameter groups of several rates."""

import csv
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch

from lk_downstream import create_backbone
from lk_downstream.callbacks import FindLearningRate
from lk_downstream.callbacks.learning_rate import averaged, suggestion
from lk_downstream.data import Cityscapes, SegmentationData, Synthetic
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.optim import Cosine, LayerDecay, ParameterGroups
from lk_downstream.refusals import sentence
from lk_downstream.reports.learning_rate import draw_rates
from lk_downstream.tasks import Segmentation


def test_where_the_loss_falls_fastest():
    rates = np.geomspace(1e-6, 1, 200)
    falls = 1 / (1 + np.exp(4 * (np.log10(rates) + 3)))  # fastest at 1e-3
    explodes = np.where(rates > 0.05, (rates - 0.05) * 100, 0)
    found = suggestion(rates, (1 + falls + explodes).tolist())
    assert 1e-3 < found < 1e-2  # the mean lags behind
    assert suggestion(rates, np.linspace(1, 2, 200).tolist()) is None
    assert suggestion(rates[:3], [3.0, 2.0, 1.0]) is None
    broken = (1 + falls).tolist()[:150] + [float("nan")] * 50
    assert 1e-3 < suggestion(rates, broken) < 1e-2
    assert draw_rates(rates, broken, averaged(broken), found).dtype == np.uint8
    assert draw_rates(rates[:2], [float("nan")] * 2, np.full(2, np.nan), None).ndim == 3


class Watch(L.Callback):
    def __init__(self):
        self.rates = []

    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.rates.append({group["lr_scale"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize(("highest", "ends"), [(1e-2, 12), (1e8, None)])
def test_every_group_has_its_share_and_the_weights_stay(tmp_path, capsys, highest, ends):
    L.seed_everything(0)
    data = SegmentationData(
        partial(Cityscapes, root=tmp_path / "cityscapes"), batch_size=4, crop_size=32, scale=(64, 48), workers=0,
        synthetic=Synthetic(train=8, val=2, size=(48, 64)),
    )  # fmt: skip
    task = Segmentation(
        create_backbone("test_convnext"), data.classes, head=partial(UPerHead, channels=8), auxiliary_head=None,
        groups=ParameterGroups(layer_decay=LayerDecay(0.5, 3)), schedule=partial(Cosine, warmup_steps=5),
    )  # fmt: skip
    watch, finder = Watch(), FindLearningRate(1e-4, highest, 12)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=30, accumulate_grad_batches=2, default_root_dir=tmp_path, logger=False,
        callbacks=[finder, watch], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    trainer.fit(task, data)
    assert task.results == {}  # no validation
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    rows = list(csv.DictReader((tmp_path / "learning_rates.csv").read_text(encoding="utf-8").splitlines()))
    assert (tmp_path / "learning_rates.png").is_file()
    assert len(rows) == len(watch.rates) == trainer.global_step
    if ends:
        assert trainer.global_step == ends
        expected = np.geomspace(1e-4, highest, 12)
        for row, groups, rate in zip(rows, watch.rates, expected):
            assert float(row["rate"]) == pytest.approx(rate, rel=1e-5)
            assert len(groups) > 2
            assert all(lr == pytest.approx(rate * scale) for scale, lr in groups.items())
    else:
        assert trainer.global_step < 12  # it has diverged
    assert "learning_rates.png" in capsys.readouterr().out


def test_lightnings_own_is_answered_by_ours():
    error = AttributeError("When using the learning rate finder, either `model` or ... should have one of these fields")
    assert "FindLearningRate" in sentence(error)


def test_wrong_settings():
    with pytest.raises(InputError, match="above 0 and below the second"):
        FindLearningRate(1.0, 0.1)
