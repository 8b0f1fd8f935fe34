"""Sparse training through the Trainer: a plain reference, precisions, processes, resuming, and what is saved."""

import copy
import json
import math
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from processes import in_two_processes
from torch import nn
from torch.utils.data import DataLoader

from lk_downstream import create_backbone
from lk_downstream.callbacks import AveragedWeights, DynamicSparsity
from lk_downstream.cli import main
from lk_downstream.errors import InputError
from lk_downstream.heads import UPerHead
from lk_downstream.tasks import Segmentation

adamw = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.05)


class Tiny(L.LightningModule):
    """A classifier with all that a first look at the gradients could disturb."""

    def __init__(self, optimizer=adamw, dropout=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(128, 4)
        )
        for parameter in self.backbone.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.optimizer_factory = optimizer

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.backbone(images), labels)
        self.log("train/loss", loss, on_step=True)  # which Lightning refuses before the first step
        self.logged = loss.item()
        return loss

    def configure_optimizers(self):
        return self.optimizer_factory(self.parameters())


class Watch(L.Callback):
    """Looks at the weights after every batch, as whatever saves them would."""

    def __init__(self, sparsity):
        self.sparsity, self.history, self.outside = sparsity, [], 0

    def on_train_batch_end(self, trainer, task, *args):
        named = dict(task.named_parameters())
        self.outside += sum(int((named[name][~mask] != 0).sum()) for name, mask in self.sparsity.masks.items())
        self.history.append({name: mask.clone() for name, mask in self.sparsity.masks.items()})


def batches(number=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(number, 5, 3, 6, 6, generator=generator)
    return list(zip(images, torch.randint(0, 4, (number, 5), generator=generator)))


def fit(task, *callbacks, data=None, ckpt_path=None, **options):
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **{"max_steps": 9, **options},
    )  # fmt: skip
    trainer.fit(task, DataLoader(data or batches(), batch_size=None), ckpt_path=ckpt_path)
    return trainer


def with_zeros(task, share=0.5):
    """The task with zeros at random places of its matrices and kernels."""
    generator = torch.Generator().manual_seed(1)
    for parameter in task.parameters():
        if parameter.ndim > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) > share
    return task


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("growth", ["gradient", "momentum"])
def test_steps_are_those_of_a_plain_loop(growth, accumulate):
    task, sparsity = with_zeros(Tiny()), DynamicSparsity(init="zeros", growth=growth, prune_rate=0.4, update_every=2)
    net = copy.deepcopy(task.backbone)
    fit(task, sparsity, accumulate_grad_batches=accumulate)

    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.05)
    masks = {name: (weight != 0).flatten().tolist() for name, weight in net.named_parameters() if weight.ndim > 1}
    first = copy.deepcopy(masks)
    data = iter(batches())
    for step in range(1, 10):
        optimizer.zero_grad()
        for _ in range(accumulate):
            images, labels = next(data)
            (nn.functional.cross_entropy(net(images), labels) / accumulate).backward()
        optimizer.step()
        for name, mask in masks.items():
            weight = net.get_parameter(name)
            moments = optimizer.state[weight]
            wanted = weight.grad if growth == "gradient" else moments["exp_avg"] / (moments["exp_avg_sq"].sqrt() + 1e-8)
            wanted = wanted.abs().flatten().tolist()
            with torch.no_grad():
                values = weight.flatten().tolist()
                if step % 2 == 0:
                    rate = 0.005 + (0.4 - 0.005) * (1 + math.cos(math.pi * step / 9)) / 2
                    inside = sorted((i for i, kept in enumerate(mask) if kept), key=lambda i: abs(values[i]))
                    dropped = inside[: math.ceil(rate * len(inside))]
                    for i in dropped:
                        mask[i], values[i] = False, 0.0
                    outside = sorted((i for i, kept in enumerate(mask) if not kept), key=lambda i: -wanted[i])
                    for i in outside[: len(dropped)]:
                        mask[i], values[i] = True, 0.0
                values = [value if kept else 0.0 for value, kept in zip(values, mask)]
                weight.copy_(torch.tensor(values).view(weight.shape))
    for name, mask in masks.items():
        assert sparsity.masks[f"backbone.{name}"].flatten().tolist() == mask != first[name]
    assert sparsity.steps == 9
    for ours, theirs in zip(task.backbone.state_dict().values(), net.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_random_growth_keeps_the_number_of_weights_and_drops_the_smallest():
    sparsity = DynamicSparsity(init="uniform", prune_rate=0.5, final_prune_rate=0.1, update_every=3)
    watch = Watch(sparsity)
    fit(Tiny(), sparsity, watch)
    assert watch.outside == 0
    for name in sparsity.masks:
        sizes = [int(masks[name].sum()) for masks in watch.history]
        assert sizes == [round(0.6 * sparsity.masks[name].numel())] * 9
        changed = [not torch.equal(a[name], b[name]) for a, b in zip(watch.history, watch.history[1:])]
        assert changed == [False, True, False, False, True, False, False, False]  # and none after the last step


def test_a_tensor_that_would_keep_all_its_weights_is_left_dense():
    sparsity = DynamicSparsity(sparsity=0.1, init="erk", update_every=0)
    task = Tiny()
    fit(task, sparsity, max_steps=1)
    assert list(sparsity.masks) == ["backbone.0.weight"]  # the other would need 1.13 of its weights
    assert sparsity.masks["backbone.0.weight"].sum() == round(0.9 * (216 + 512)) - 512
    assert task.backbone[5].weight.all()
    section = sparsity.report_section(task)
    assert section.metrics["nonzero"] == sum(int(parameter.count_nonzero()) for parameter in task.parameters())
    assert section.metrics["layers"] == {"backbone.0.weight": pytest.approx(143 / 216)}


def test_snip_shares_follow_the_gradient_of_the_first_batches():
    task, sparsity = Tiny(), DynamicSparsity(init="snip", snip_batches=2, update_every=0)
    net = copy.deepcopy(task.backbone)
    fit(task, sparsity, max_steps=1)
    for images, labels in batches()[:2]:  # one after the other, on the same weights
        (nn.functional.cross_entropy(net(images), labels) / 2).backward()
    scores = {name: (w * w.grad).abs().detach() for name, w in net.named_parameters() if w.ndim > 1}
    together = torch.cat([score.flatten() for score in scores.values()]).sort(descending=True).values
    for name, score in scores.items():
        share = (score > together[int(0.6 * together.numel()) - 1]).double().mean().item()
        assert sparsity.masks[f"backbone.{name}"].sum() == round(share * score.numel())
    assert len({f"{mask.double().mean():.3f}" for mask in sparsity.masks.values()}) == 2


class Noisy(torch.utils.data.Dataset):
    """Other noise on every look."""

    def __init__(self):
        self.batches = batches(8)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        images, labels = self.batches[index]
        return images + torch.rand(()), labels


@pytest.mark.parametrize("workers", [0, 1])
def test_the_look_at_the_gradients_leaves_no_trace(workers):
    class State(L.Callback):
        def on_train_start(self, trainer, task):
            self.tensors = [torch.get_rng_state(), torch.tensor(random.getstate()[1])]
            self.tensors += [buffer.clone() for buffer in task.buffers()]
            self.plain = trainer.global_step, [p.grad for p in task.parameters()], task.training

    class Seen(L.Callback):
        def __init__(self):
            self.batches = []

        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            self.batches.append(batch[0])

    def run(*callbacks):
        torch.manual_seed(0)
        options = {"num_workers": workers, "persistent_workers": workers > 0}
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(Noisy(), batch_size=None, shuffle=True, generator=generator, **options)
        task, seen = Tiny(dropout=0.3), Seen()
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=10,
            enable_model_summary=False, callbacks=[*callbacks, seen],
        )  # fmt: skip
        trainer.fit(task, loader)
        assert trainer.callback_metrics == {"train/loss": task.logged}
        return seen.batches

    before, after = State(), State()
    sparse, dense = run(before, DynamicSparsity(init="snip"), after), run()
    assert all(torch.equal(a, b) for a, b in zip(before.tensors, after.tensors))
    assert before.plain == after.plain
    assert len(sparse) == 10  # more than an epoch
    assert all(torch.equal(a, b) for a, b in zip(sparse, dense))


def test_averages_hold_the_masks_and_start_from_the_value_of_a_grown_weight():
    sparsity, averaging = DynamicSparsity(init="erk", prune_rate=0.5, update_every=3), AveragedWeights(decay=0.9)

    class Averages(L.Callback):
        def __init__(self):
            self.history = []

        def on_train_batch_end(self, trainer, task, *args):
            averages, named = averaging.averages(task), dict(task.named_parameters())
            name = "backbone.5.weight"
            mask = sparsity.masks[name].clone()
            self.history.append((mask, averages[name].clone(), named[name].detach().clone()))

    history = Averages()
    fit(Tiny(), sparsity, averaging, history)
    for mask, average, weight in history.history:
        assert not average[~mask].any()
        assert not weight[~mask].any()
    (old, before, _), (new, average, weight), (_, after, later) = history.history[1:4]
    grown = new & ~old
    assert grown.any()
    assert not average[grown].any()
    assert not weight[grown].any()
    assert torch.equal(after[grown], later[grown])  # one step later; not 0.1 of it
    kept = old & new & (weight != 0)
    torch.testing.assert_close(average[kept], 0.9 * before[kept] + 0.1 * weight[kept])


def test_bfloat16_and_accumulation_keep_the_zeros():
    sparsity = DynamicSparsity(init="snip", growth="gradient", update_every=2)
    watch = Watch(sparsity)
    fit(Tiny(), sparsity, watch, precision="bf16-mixed", accumulate_grad_batches=2)
    assert watch.outside == 0
    assert sparsity.steps == 9
    assert len(watch.history) == 18
    changes = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(watch.history, watch.history[1:])]
    assert [number + 2 for number, change in enumerate(changes) if change] == [4, 8, 12, 16]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_loss_scaler_skips_is_none(fused):
    data = batches()
    data[1][0][:] = torch.inf  # the second step, at which an update would be due
    sparsity = DynamicSparsity(init="uniform", growth="gradient", update_every=2)
    watch = Watch(sparsity)
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    task = Tiny(partial(torch.optim.AdamW, lr=0.01, fused=fused))
    task.backbone[1] = nn.Identity()  # a batch norm would keep the infinity
    fit(task, sparsity, watch, data=data, max_steps=5, plugins=[precision])
    assert sparsity.steps == 4
    assert watch.outside == 0
    changes = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(watch.history, watch.history[1:])]
    assert changes == [False, True, False, True]
    assert all(parameter.isfinite().all() for parameter in task.parameters())


def test_fine_tuning_keeps_the_topology_of_the_loaded_weights():
    task = with_zeros(Tiny())
    task.backbone[5].reset_parameters()  # a new head
    zeros = task.backbone[0].weight == 0
    sparsity = DynamicSparsity(init="zeros", update_every=0)
    fit(task, sparsity)
    assert list(sparsity.masks) == ["backbone.0.weight"]
    assert torch.equal(task.backbone[0].weight == 0, zeros)
    assert task.backbone[5].weight.all()


def test_dense_weights_stay_dense_in_fine_tuning(capsys):
    task, sparsity = Tiny(), DynamicSparsity(init="zeros", update_every=0)
    fit(task, sparsity)
    assert sparsity.masks == {}
    assert sparsity.report_section(task) is None
    assert "no zeros to keep" in capsys.readouterr().out


def test_a_tensor_of_zeros_only_is_not_mistaken_for_a_sparse_one():
    task = with_zeros(Tiny())
    nn.init.zeros_(task.backbone[5].weight)
    sparsity = DynamicSparsity(init="zeros")
    fit(task, sparsity)
    assert list(sparsity.masks) == ["backbone.0.weight"]
    assert task.backbone[5].weight.any()


def segmentation():
    torch.manual_seed(0)
    task = Segmentation(create_backbone("test_slak"), ("a", "b"), partial(UPerHead, channels=8), auxiliary_head=None)
    task.optimizer_factory = partial(torch.optim.AdamW, lr=1e-3)
    for module in task.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0  # a resumed run has other random numbers
    return task


def make_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=generator).to(torch.uint8)
    return [{"image": images, "mask": images[:, 0] // 128, "size": torch.full((2, 2), 64), "name": ["a", "b"]}] * 8


@pytest.mark.parametrize("averaged", [False, True])
def test_a_stopped_and_resumed_run_ends_as_an_unbroken_one(averaged, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, task, *args):
            if trainer.global_step in (3, 6):
                trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    def run(ckpt_path=None):
        sparsity = DynamicSparsity(prune_rate=0.5, update_every=2)
        averages = [AveragedWeights(0.9)] if averaged else []
        task = segmentation()
        fit(task, sparsity, *averages, Save(), data=make_images(), max_steps=6, ckpt_path=ckpt_path)
        return torch.load(tmp_path / "6.ckpt", weights_only=True), sparsity, task

    unbroken, whole, _ = run()
    middle = torch.load(tmp_path / "3.ckpt", weights_only=True)
    resumed, parts, task = run(tmp_path / "3.ckpt")

    states = ["state_dict", *(["current_model_state"] if averaged else [])]
    assert all(torch.equal(unbroken[s][name], resumed[s][name]) for s in states for name in unbroken["state_dict"])
    assert whole.masks.keys() == parts.masks.keys()
    assert all(torch.equal(whole.masks[name], parts.masks[name]) for name in whole.masks)
    packed = [checkpoint["callbacks"]["DynamicSparsity"]["masks"] for checkpoint in (middle, unbroken, resumed)]
    assert any(not torch.equal(packed[0][name], packed[1][name]) for name in whole.masks)  # the masks have changed
    assert all(torch.equal(packed[1][name], packed[2][name]) for name in whole.masks)

    kept = sum(int(mask.sum()) for mask in whole.masks.values()) / sum(mask.numel() for mask in whole.masks.values())
    assert kept == pytest.approx(0.6, abs=0.02)  # SNIP's threshold lets some tensors be dense
    for name, mask in whole.masks.items():
        assert name.startswith("backbone")
        assert all(not unbroken[s][name][~mask].any() for s in states)
    # The last update was two steps before. Where a kernel reaches only past the border no gradient ever comes.
    reached = [name for name in whole.masks if "pwconv" in name]
    assert len(reached) == 10
    assert all(torch.equal(unbroken[s][name] != 0, whole.masks[name]) for s in states for name in reached)
    assert all(torch.equal(task.get_parameter(name) != 0, whole.masks[name]) for name in reached)


def test_a_checkpoint_of_other_tensors_is_refused(tmp_path):
    sparsity = DynamicSparsity(init="uniform")
    fit(Tiny(), sparsity).save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["callbacks"]["DynamicSparsity"]["shapes"]["backbone.0.weight"] = [8, 3, 3, 4]
    torch.save(checkpoint, tmp_path / "b.ckpt")
    with pytest.raises(InputError, match=r"mask of backbone\.0\.weight \[8, 3, 3, 4\]"):
        fit(Tiny(), DynamicSparsity(), ckpt_path=tmp_path / "b.ckpt", max_steps=12)


@pytest.mark.parametrize(
    ("options", "callbacks", "sentence"),
    [
        ({"sparsity": 1.2}, [], "sparsity is a share"),
        ({"update_every": -1}, [], "update_every is -1: it must be at least 0"),
        ({"snip_batches": 0}, [], "snip_batches is 0: it must be at least 1"),
        ({"init": "snap"}, [], "init is one of erk, snip, uniform, zeros, not 'snap'"),
        ({"growth": "up"}, [], "growth is one of gradient, momentum, random"),
        ({"only": "("}, [], "no regular expression"),
        ({"only": "encoder"}, [], "no matrix or kernel .* 'encoder'"),
        ({}, [EMAWeightAveraging()], "AveragedWeights"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(options, callbacks, sentence):
    with pytest.raises(InputError, match=sentence):
        fit(Tiny(), DynamicSparsity(**options), *callbacks)


def test_weights_in_pieces_are_refused():
    trainer = SimpleNamespace(strategy=FSDPStrategy(), callbacks=[])
    with pytest.raises(InputError, match=r"trainer\.strategy to ddp"):
        DynamicSparsity().setup(trainer, Tiny(), "fit")


def test_a_run_without_an_end_is_refused():
    with pytest.raises(InputError, match=r"trainer\.max_steps"):
        fit(Tiny(), DynamicSparsity(), max_steps=-1, max_epochs=-1)


def fit_as_one_of_two(rank, folder):
    result = []
    for growth in ("random", "gradient"):
        sparsity = DynamicSparsity(growth=growth, update_every=2, seed=rank)  # without luck
        watch = Watch(sparsity)
        trainer = L.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_steps=5, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            callbacks=[sparsity, watch],
        )  # fmt: skip
        task = Tiny()
        trainer.fit(task, DataLoader(batches(seed=rank), batch_size=None))  # other data
        weights = {name: parameter.detach() for name, parameter in task.named_parameters()}
        result.append({"history": watch.history, "weights": weights, "outside": watch.outside})
    torch.save(result, folder / f"{rank}.pt")


def test_two_processes_have_the_same_masks(tmp_path):
    in_two_processes(fit_as_one_of_two, tmp_path)
    for one, two in zip(*(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))):
        assert len(one["history"]) == 5
        for masks, others in zip(one["history"], two["history"]):
            assert masks.keys() == others.keys() != set()
            assert all(torch.equal(masks[name], others[name]) for name in masks)
        assert any(not torch.equal(one["history"][0][name], mask) for name, mask in one["history"][-1].items())
        assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])
        assert one["outside"] == two["outside"] == 0


def test_from_the_command_line_with_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = Path(__file__).parents[2] / "configs" / "demo_segmentation.yaml"
    options = {
        "trainer.callbacks+": "DynamicSparsity",
        "trainer.callbacks.update_every": 2,
        "trainer.max_steps": 3,
        "trainer.val_check_interval": 3,
        "trainer.num_sanity_val_steps": 0,
        "trainer.log_every_n_steps": 1,
        "checkpoint.save_weights_only": True,
        "model.backbone.name": "test_slak",
        "data.synthetic": {"train": 4, "val": 1, "size": [48, 64]},
        "data.batch_size": 2,
        "data.crop_size": 48,
        "data.scale": [64, 48],
        "data.workers": 0,
    }
    main("fit", ["--config", str(config), *(f"--{name}={value}" for name, value in options.items())])
    printed = capsys.readouterr().out
    assert "parameters are not zero (" in printed
    assert "backbone.body.stages.2.*.pwconv1" in printed
    (folder,) = (tmp_path / "runs" / "demo_segmentation").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["sparsity"]
    assert 0.6 < metrics["density"] == metrics["nonzero"] / metrics["parameters"] < 0.9
    assert all(0 < density < 0.99 for density in metrics["layers"].values())
    header = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {f"density/{name.removesuffix('.weight')}" for name in metrics["layers"]} <= set(header)
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, density in metrics["layers"].items():
        assert weights[name].count_nonzero() / weights[name].numel() == pytest.approx(density)
