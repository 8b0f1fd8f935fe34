import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import lk_downstream
from lk_downstream import InputError, create_backbone

FAMILIES = ["test_convnext", "test_replknet", "test_slak"]


def test_features_of_convnext_equal_the_authors(golden):
    reference = golden("convnext_tiny_features")
    backbone = create_backbone("convnext_tiny").eval()
    report = lk_downstream.load_weights(backbone, reference.state, verbose=False)
    assert len(report.loaded) == len(reference.shapes) == len(backbone.state_dict())
    with torch.no_grad():
        for level, feature in enumerate(backbone(reference.image)):
            assert reference.error(f"feature{level}", feature) < 1e-4


def test_classifier_of_convnext_equals_the_authors(golden):
    reference = golden("convnext_tiny")
    model = timm.create_model("convnext_tiny").eval()
    report = lk_downstream.load_weights(model, {"model": reference.state}, verbose=False)
    assert len(report.loaded) == len(reference.shapes) == len(model.state_dict())
    with torch.no_grad():
        assert reference.error("logits", model(reference.image)) < 1e-4


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2), [3], (0,)])
@pytest.mark.parametrize("name", [*FAMILIES, "resnet18", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"])
def test_any_hierarchical_model_gives_the_promised_maps_and_uses_all_parameters(name, out_indices):
    small = {"depths": (1, 1, 1, 1), "embed_dim": 24} if name.startswith("swin") else {}
    backbone = create_backbone(name, out_indices=out_indices, **small)
    assert backbone.strides == tuple(4 * 2**level for level in out_indices)
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(item.shape) for item in maps] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(backbone.channels, backbone.strides)
    ]
    sum(item.square().mean() for item in maps).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_norms_of_the_levels_returned_only():
    for name in ("test_convnext", "test_slak"):
        backbone = create_backbone(name, out_indices=(1, 3))
        assert [key for key, _ in backbone.named_children()] == ["body", "norm1", "norm3"]
        assert backbone.norm3.eps == 1e-6
        assert backbone(torch.randn(1, 3, 64, 64))[1].mean(1).abs().max() < 1e-5
    for name in ("test_replknet", "resnet18"):
        assert [key for key, _ in create_backbone(name).named_children()] == ["body"]


def test_a_norm_acts_on_the_returned_map_only():
    backbone = create_backbone("test_replknet", norm_intermediate_features=True)
    x = torch.randn(2, 3, 64, 64)
    before = backbone.eval()(x)
    nn.init.constant_(backbone.body.stages[0].norm.weight, 3.0)
    after = backbone(x)
    torch.testing.assert_close(after[0], 3 * before[0])
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)


def test_arguments_reach_the_model():
    backbone = create_backbone("test_slak", drop_path_rate=0.2, kernel_size=(9, 9, 7, 5, 3), in_chans=4)
    assert backbone.body.stages[3][0].drop_path.drop_prob == pytest.approx(0.2)
    assert backbone.body.stages[0][0].large_kernel.LoRA1.conv.kernel_size == (9, 3)
    assert len(backbone.mean) == len(backbone.std) == 4
    assert len(backbone(torch.randn(1, 4, 64, 64))) == 4


@pytest.mark.parametrize("name", ["test_convnext", "test_slak"])
def test_layer_scale_starts_at_one_downstream(name):
    for expected, arguments in ((1.0, {}), (0.25, {"ls_init_value": 0.25})):
        parameters = create_backbone(name, **arguments).named_parameters()
        gammas = [value for key, value in parameters if key.endswith("gamma")]
        assert gammas
        assert all((gamma == expected).all() for gamma in gammas)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_smaller_than_the_kernel_and_one_pixel(name):
    maps = create_backbone(name).eval()(torch.randn(1, 3, 32, 32))
    assert maps[-1].shape[2:] == (1, 1)
    assert all(item.isfinite().all() for item in maps)


@pytest.mark.parametrize("name", [*FAMILIES, "resnet18"])
def test_checkpointing_leaves_gradients_as_they_are(name):
    plain = create_backbone(name)
    checkpointed = create_backbone(name, grad_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for backbone in (plain, checkpointed):
        sum(item.square().mean() for item in backbone(x)).backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), checkpointed.named_parameters()):
        torch.testing.assert_close(one.grad, two.grad, msg=key)


def test_copies_and_pickles():
    backbone = create_backbone("test_slak").eval()
    x = torch.randn(1, 3, 32, 32)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        torch.testing.assert_close(other(x), backbone(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "slak_tine"}, r"no model named 'slak_tine'; did you mean 'slak_tiny'"),
        ({"name": "resnet50.a1_in1k"}, r"name 'resnet50' and weights 'a1_in1k'"),
        ({"name": "vit_tiny_patch16_224"}, r"no maps at stride 4, 8, 32 \(it has 16\)"),
        (
            {"name": "test_replknet", "kernel_size": 3},
            r"'test_replknet' cannot be built with kernel_size=3.*unexpected",
        ),
        ({"name": "test_slak", "out_indices": (3, 1)}, r"out_indices must be rising"),
        ({"name": "test_slak", "out_indices": (1, 4)}, r"out_indices must be rising"),
        ({"name": "test_slak", "out_indices": ()}, r"out_indices must be rising"),
        ({"name": "test_vit", "out_indices": (1,)}, r"hierarchical"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        create_backbone(**arguments)


def test_command_line_swaps_and_overrides():
    from jsonargparse import ArgumentParser

    class Task:
        """A task.

        Args:
            backbone: its extractor.
        """

        def __init__(self, backbone: lk_downstream.Backbone):
            self.backbone = backbone

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Task, "model")
    config = parser.parse_object(
        {"model": {"backbone": {"class_path": "lk_downstream.create_backbone", "init_args": {"name": "resnet18"}}}}
    )
    assert config.model.backbone.init_args.as_dict().keys() == {
        "name",
        "weights",
        "in_chans",
        "out_indices",
        "drop_path_rate",
        "grad_checkpointing",
    }
    arguments = [
        "--model.backbone=lk_downstream.create_backbone",
        "--model.backbone.name=resnet18",
        "--model.backbone.name=test_slak",
        "--model.backbone.drop_path_rate=0.1",
        "--model.backbone.out_indices=[1, 3]",
        "--model.backbone.dict_kwargs.kernel_size=[9, 9, 7, 5, 3]",
    ]
    backbone = parser.instantiate(parser.parse_args(arguments)).model.backbone
    assert (backbone.name, backbone.strides) == ("test_slak", (8, 32))
    assert backbone.body.stages[0][0].large_kernel.LoRA1.conv.kernel_size == (9, 3)
