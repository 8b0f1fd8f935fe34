"""Densities, pruning and growth against what the papers say, written down a second time."""

import math

import numpy as np
import pytest
import timm
import torch

import lk_downstream  # noqa: F401 (registers the models)
from lk_downstream.callbacks.sparsity import maskable
from lk_downstream.errors import InputError
from lk_downstream.optim import sparsity as rules

SHAPES = {"stem": (8, 3, 4, 4), "depthwise": (8, 1, 9, 3), "wide": (64, 32), "head": (5, 64), "large": (64, 64, 3, 3)}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("density", [0.05, 0.2, 0.6, 0.9, 0.98])
def test_erk_gives_min_of_1_and_a_multiple_of_sizes_sum_over_product(density):
    found = rules.erk_densities(weights(), density, dict)
    raw = np.array([sum(shape) / math.prod(shape) for shape in SHAPES.values()])
    sizes = np.array([math.prod(shape) for shape in SHAPES.values()])
    low, high = 0.0, 1e6  # the multiple at which as many weights are kept as asked for, by bisection
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if (np.minimum(1, middle * raw) * sizes).sum() < density * sizes.sum() else (low, middle)
        )
    np.testing.assert_allclose(list(found.values()), np.minimum(1, low * raw), rtol=1e-9)
    assert sum(found[name] * math.prod(shape) for name, shape in SHAPES.items()) == pytest.approx(density * sizes.sum())


def test_snip_keeps_of_each_tensor_what_lies_above_one_threshold():
    values, gradients = weights(), weights(seed=1)
    found = rules.snip_densities(values, 0.6, lambda: gradients)
    scores = {name: (values[name] * gradients[name]).abs().numpy().ravel() for name in values}
    together = np.sort(np.concatenate(list(scores.values())))[::-1]
    threshold = together[int(together.size * 0.6) - 1]
    assert found == {name: (score > threshold).mean() for name, score in scores.items()}
    assert len({round(density, 3) for density in found.values()}) == len(found)


def test_snip_without_gradients():
    values, gradients = weights(), weights(seed=1)
    others = {name: gradient for name, gradient in gradients.items() if name != "head"}
    expected = rules.snip_densities({name: values[name] for name in others}, 0.6, lambda: others)
    gradients["head"] = torch.zeros(SHAPES["head"])  # as where a batch has no objects
    assert rules.snip_densities(values, 0.6, lambda: gradients) == {**expected, "head": 0.6}
    gradients["wide"][0, 0] = torch.nan
    with pytest.raises(InputError, match="init: erk"):
        rules.snip_densities(values, 0.6, lambda: gradients)


@pytest.mark.parametrize("rule", ["uniform", "erk"])
@pytest.mark.parametrize(("name", "millions"), [("tiny", 30.47), ("small", 54.78), ("base", 94.91), ("large", 208.2)])
def test_published_numbers_of_weights_that_are_not_zero(name, millions, rule):
    with torch.device("meta"):
        model = timm.create_model(f"slak_{name}")
    masked = maskable(model)
    densities = rules.DENSITIES[rule](masked, 0.6, dict)
    dense = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(masked[key].numel() - round(density * masked[key].numel()) for key, density in densities.items())
    assert (dense - zeros) / 1e6 == pytest.approx(millions, abs=0.05 if name == "large" else 0.005)


def test_the_authors_tensors_are_masked():
    with torch.device("meta"):
        model = timm.create_model("slak_tiny")
    names = set(maskable(model))
    block = {"large_kernel.LoRA1.conv", "large_kernel.LoRA2.conv", "large_kernel.small_conv.conv", "pwconv1", "pwconv2"}
    expected = {f"downsample_layers.{i}.{int(i > 0)}" for i in range(4)} | {"head"}
    expected |= {
        f"stages.{stage}.{i}.{part}" for stage, depth in enumerate((3, 3, 9, 3)) for i in range(depth) for part in block
    }
    assert names == {f"{name}.weight" for name in expected}
    assert len(maskable(model, "large_kernel.LoRA")) == 36


@pytest.mark.parametrize("density", [0.0, 1e-4, 0.37, 1.0])
def test_a_random_mask_holds_its_density_to_one_weight(density):
    mask = rules.random_mask(torch.empty(64, 32), density, torch.Generator().manual_seed(0))
    assert mask.sum() == max(round(density * 2048), 1)


def test_pruning_takes_the_smallest_and_growth_the_best_outside():
    weight, scores = weights()["wide"], weights(1)["wide"]
    mask = rules.random_mask(weight, 0.5, torch.Generator().manual_seed(0))
    kept = rules.prune(weight, mask, 0.3)
    assert kept.sum() == 1024 - math.ceil(0.3 * 1024)
    assert not (kept & ~mask).any()
    assert weight[kept].abs().min() >= weight[mask & ~kept].abs().max()
    grown = rules.grow(kept, scores, 7)
    assert (grown & ~kept).sum() == 7
    assert grown[kept].all()
    assert scores[grown & ~kept].min() >= scores[~grown].max()


def test_the_rate_falls_by_half_a_cosine():
    assert [rules.cosine_rate(step, 10, 0.5, 0.1) for step in (0, 5, 10)] == pytest.approx([0.5, 0.3, 0.1])


def test_growth_by_momentum_needs_momentum():
    weight = torch.zeros(2, 2)
    moments = {"exp_avg": torch.full((2, 2), -2.0), "exp_avg_sq": torch.full((2, 2), 16.0)}
    assert torch.allclose(rules.momentum_scores(weight, moments, torch.Generator()), weight + 0.5)
    assert torch.equal(rules.momentum_scores(weight, {"momentum_buffer": weight - 3}, torch.Generator()), weight + 3)
    with pytest.raises(InputError, match="AdamW"):
        rules.momentum_scores(weight, {"momentum_buffer": None}, torch.Generator())
