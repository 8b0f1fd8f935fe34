import pytest
import timm
import torch

import lk_downstream


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_classifier_equals_the_authors(golden, shapes_of):
    reference = golden("slak_tiny")
    model = timm.create_model("slak_tiny").eval()
    assert list(shapes_of(model).items()) == list(reference.shapes.items())
    model.load_state_dict(reference.state)
    with torch.no_grad():
        assert reference.error("logits", model(reference.image)) < 1e-4
        merged = lk_downstream.reparameterize(model)
        assert reference.error("logits", merged(reference.image)) < 1e-4


def test_features_equal_the_authors(golden, shapes_of):
    reference = golden("slak_tiny_features")
    backbone = lk_downstream.create_backbone("slak_tiny").eval()
    shapes = {key.removeprefix("body."): shape for key, shape in shapes_of(backbone).items()}
    assert list(shapes.items()) == list(reference.shapes.items())
    assert lk_downstream.load_weights(backbone, reference.state, verbose=False).missing == []
    with torch.no_grad():
        for level, feature in enumerate(backbone(reference.image)):
            assert reference.error(f"feature{level}", feature) < 1e-4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("slak_tiny", 50_703_838),
        ("slak_small", 91_131_820),
        ("slak_base", 157_950_792),
        ("slak_large", 346_624_518),
    ],
)
def test_published_parameter_counts(name, parameters):
    with torch.device("meta"):
        assert count(timm.create_model(name)) == parameters


@pytest.mark.parametrize(("kernel_size", "width"), [((31, 29, 27, 13, 5), 1.3), ((61, 59, 57, 13, 5), 1.0)])
def test_other_kernels_and_widths_are_one_option(kernel_size, width):
    with torch.device("meta"):
        shapes = timm.create_model("slak_tiny", kernel_size=kernel_size, width_factor=width).state_dict()
    tall = shapes["stages.1.0.large_kernel.LoRA1.conv.weight"].shape
    wide = shapes["stages.1.0.large_kernel.LoRA2.conv.weight"].shape
    assert tall == (int(192 * width), 1, kernel_size[1], 5)
    assert wide == (int(192 * width), 1, 5, kernel_size[1])


def test_plain_kernels_and_the_authors_convnext_mode():
    plain = timm.create_model("test_slak", decomposed=False).stages[0][0].large_kernel
    assert [name for name, _ in plain.named_children()] == ["lkb_origin", "small_conv"]
    convnext = timm.create_model("test_slak", kernel_size=(7, 7, 7, 7, 100)).stages[0][0].large_kernel
    assert [name for name, _ in convnext.named_children()] == ["lkb_origin"]
    assert convnext.lkb_origin.conv.kernel_size == (7, 7)


@pytest.mark.parametrize("size", [(97, 130), (64, 95), (129, 65)])
def test_odd_sizes_are_rounded_down(size):
    backbone = lk_downstream.create_backbone("test_slak")
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, *size))
    assert [tuple(item.shape[2:]) for item in maps] == [
        tuple(side // stride for side in size) for stride in (4, 8, 16, 32)
    ]


@pytest.mark.parametrize("value", [0, 0.5])
def test_layer_scale_is_an_argument(value):
    model = timm.create_model("test_slak", ls_init_value=value)
    gammas = [parameter for name, parameter in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == (sum((1, 1, 2, 1)) if value else 0)
    assert all((gamma == value).all() for gamma in gammas)


def test_classifier_starts_small_if_asked():
    torch.manual_seed(0)
    usual = timm.create_model("test_slak").head.weight.std()
    torch.manual_seed(0)
    torch.testing.assert_close(timm.create_model("test_slak", head_init_scale=0.001).head.weight.std(), usual * 0.001)


@pytest.mark.parametrize(
    "arguments", [{"kernel_size": (51, 49, 47, 13)}, {"kernel_size": (8, 7, 7, 7, 3)}, {"global_pool": "catavgmax"}]
)
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises((ValueError, AssertionError), match=r"needs 5 values|odd|width"):
        timm.create_model("test_slak", **arguments)
