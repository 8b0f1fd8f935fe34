import pytest
import timm
import torch

import lk_downstream

FULL = ["replknet_31b", "replknet_31l", "replknet_xl"]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_classifier_equals_the_authors(golden, shapes_of):
    reference = golden("replknet_31b")
    model = timm.create_model("replknet_31b").eval()
    assert list(shapes_of(model).items()) == list(reference.shapes.items())
    model.load_state_dict(reference.state)
    with torch.no_grad():
        logits = model(reference.image)
        assert reference.error("logits", logits) < 1e-4
        merged = lk_downstream.reparameterize(model)
        assert reference.error("logits", merged(reference.image)) < 1e-4


def test_features_equal_the_authors(golden, shapes_of):
    reference = golden("replknet_31b_features")
    backbone = lk_downstream.create_backbone("replknet_31b").eval()
    assert list(shapes_of(backbone.body).items()) == list(reference.shapes.items())
    assert lk_downstream.load_weights(backbone, reference.state, verbose=False).missing == []
    with torch.no_grad():
        for level, feature in enumerate(backbone(reference.image)):
            assert reference.error(f"feature{level}", feature) < 1e-4


@pytest.mark.parametrize(
    ("name", "parameters", "classes_22k", "merged"),
    [
        ("replknet_31b", 79_864_168, 101_226_193, 79_527_272),
        ("replknet_31l", 172_671_016, 204_703_633, 172_165_672),
        ("replknet_xl", 335_435_752, 378_138_961, 335_399_656),
    ],
)
def test_published_parameter_counts(name, parameters, classes_22k, merged):
    with torch.device("meta"):
        model = timm.create_model(name)
        assert count(model) == parameters
        assert count(timm.create_model(name, num_classes=21841)) == classes_22k
        assert count(lk_downstream.reparameterize(model)) == merged
        assert count(timm.create_model(name, small_kernel_merged=True)) == merged


def test_xl_has_norms_and_range_of_its_own():
    with torch.device("meta"):
        backbone = lk_downstream.create_backbone("replknet_xl", out_indices=(1, 3))
    norms = {key.split(".bias")[0] for key in backbone.body.state_dict() if key.endswith("norm.bias")}
    assert norms == {"stages.1.norm", "stages.3.norm"}
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert timm.create_model("replknet_xl", num_classes=0, channels=(8,) * 4).pretrained_cfg["input_size"][1] == 320


@pytest.mark.parametrize("size", [(97, 130), (33, 40), (129, 65)])
def test_odd_sizes_are_rounded_up(size):
    backbone = lk_downstream.create_backbone("test_replknet")
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, *size))
    assert [tuple(item.shape[2:]) for item in maps] == [
        tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)
    ]


@pytest.mark.parametrize("kernel_size", [3, 7, 13, 25, 31])
def test_kernels_of_the_ablation(kernel_size):
    model = timm.create_model("test_replknet", kernel_sizes=kernel_size, small_kernel=0, num_classes=3)
    shape = model.state_dict()["stages.3.blocks.0.large_kernel.lkb_origin.conv.weight"].shape
    assert shape[2:] == (kernel_size, kernel_size)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_drop_path_grows_by_pairs():
    model = timm.create_model("test_replknet", drop_path_rate=0.4)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    expected = [rate for step in range(5) for rate in (0.1 * step,) * 2]
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("arguments", [{"kernel_sizes": (31, 31)}, {"kernel_sizes": 30}, {"channels": (8, 8)}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"needs one value|odd"):
        timm.create_model("test_replknet", **arguments)


def test_published_files_are_known_to_timm():
    known = {tag for name in FULL for tag in timm.list_pretrained(f"{name}.*")}
    assert "replknet_31b.in22k_in1k_384" in known
    assert len(known) == 6
    assert timm.models.get_pretrained_cfg("replknet_31b.in22k_in1k_384").crop_mode == "squash"
