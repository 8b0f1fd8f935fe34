"""What timm expects of a model, for both families."""

import pytest
import timm
import torch
from timm.models import group_parameters

NAMES = ["test_replknet", "test_slak"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_classifier_can_be_replaced_and_removed(name):
    model = timm.create_model(name, num_classes=7, in_chans=4, drop_rate=0.1).eval()
    x = torch.randn(2, 4, 64, 64)
    assert model(x).shape == (2, 7)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.get_classifier().out_features == model.num_classes == 3
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.num_features)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 2, 2)


def test_maximum_pooling(name):
    model = timm.create_model(name, num_classes=0, global_pool="max").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(x).amax((2, 3))
        if name == "test_slak":
            pooled = model.norm(pooled)
        torch.testing.assert_close(model(x), pooled)


def test_features_only_and_intermediates_agree(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    features = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    missing = features.model.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert missing == []
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
        for got, want in zip(features(x), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        final, maps = model.forward_intermediates(x)
        torch.testing.assert_close(final, model.forward_features(x), rtol=0, atol=0)
    assert [item.shape[1] for item in maps] == [info["num_chs"] for info in model.feature_info]
    assert features.feature_info.reduction() == [8, 32]


def test_pruned_model_has_only_what_its_levels_need(name):
    model = timm.create_model(name)
    assert model.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    maps = model.forward_intermediates(torch.randn(2, 3, 64, 64), indices=[0, 1], intermediates_only=True)
    sum(item.mean() for item in maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("coarse", [False, True])
def test_groups_go_from_input_to_output_and_cover_all(name, coarse):
    model = timm.create_model(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert groups.keys() == dict(model.named_parameters()).keys()
    first = next(iter(dict(model.named_parameters())))
    assert groups[first] == 0
    assert groups["head.weight"] == max(groups.values())
    blocks = [groups[key] for key in groups if key.endswith(("pw2.conv.weight", "pwconv2.weight"))]
    assert blocks == sorted(blocks)
    assert len(set(blocks)) == (4 if coarse else len(blocks))
    downsampling = [
        (groups[key], int(key.split(".")[1]))
        for key in groups
        if key.startswith(("transitions", "downsample_layers.1", "downsample_layers.2", "downsample_layers.3"))
    ]
    stage = {index: {groups[key] for key in groups if key.startswith(f"stages.{index}.")} for index in range(4)}
    for group, index in downsampling:
        before, after = (index, index + 1) if name == "test_replknet" else (index - 1, index)
        assert max(stage[before]) <= group <= min(stage[after])


def test_checkpointing_changes_neither_gradients_nor_statistics(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3)
    checkpointed = timm.create_model(name, num_classes=3)
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.set_grad_checkpointing()
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        model(x).square().sum().backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), checkpointed.named_parameters()):
        torch.testing.assert_close(one.grad, two.grad, msg=key)
    for (key, one), (_, two) in zip(plain.named_buffers(), checkpointed.named_buffers()):
        torch.testing.assert_close(one, two, msg=key)


def test_pretrained_weights_load_through_timm(name, tmp_path):
    source = timm.create_model(name)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)
    other = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1)
    assert other.get_classifier().out_features == 5
    assert timm.data.resolve_data_config({}, model=other)["interpolation"] == "bicubic"


def test_trains(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    x, y = torch.randn(8, 3, 32, 32), torch.tensor([0, 1] * 4)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
