"""What timm, and tools on its models, expect; see also integrations/timm_suite.py."""

import copy
import functools
import itertools
import pickle

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._features import FeatureListNet

import lk_downstream
from lk_downstream.errors import InputError

NAMES = ["test_replknet", "test_slak"]
ISOTROPIC = {"convnext_isotropic_small": {"depth": 3, "dim": 24}}
FAMILIES = [*NAMES, *ISOTROPIC]


def create(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{**ISOTROPIC.get(name, {}), **options})


def stages_of(model):
    return list(model.stages) if hasattr(model, "stages") else [*model.blocks]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


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


def assert_same_step(plain, checkpointed, x, run=None):
    """Gradients and buffers after one backward pass of each; ``run`` stands in for the second."""
    for forward in (plain, checkpointed if run is None else run):
        torch.manual_seed(1)
        forward(x).square().sum().backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), checkpointed.named_parameters()):
        torch.testing.assert_close(one.grad, two.grad, msg=key)
    for (key, one), (_, two) in zip(plain.named_buffers(), checkpointed.named_buffers()):
        torch.testing.assert_close(one, two, msg=key)


def test_checkpointing_changes_neither_gradients_nor_statistics(family):
    plain, checkpointed = (create(family, num_classes=3, dtype=torch.float64) for _ in range(2))
    checkpointed.set_grad_checkpointing()
    assert_same_step(plain, checkpointed, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def test_compiled_checkpointing_changes_neither(family):
    torch.compiler.reset()
    plain, checkpointed = (
        create(family, dtype=torch.float64, **({"depth": 1} if family in ISOTROPIC else {})) for _ in range(2)
    )
    checkpointed.set_grad_checkpointing()
    plain, checkpointed = (model.blocks if family in ISOTROPIC else model.stages[0] for model in (plain, checkpointed))
    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    assert_same_step(plain, checkpointed, torch.randn(2, 24, 8, 8, dtype=torch.float64), compiled)


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


# ---------------------------------------------------------------- devices, types and heads


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_device_and_type_of_a_new_model(family, dtype):
    model = create(family, dtype=dtype)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {dtype}
    assert model.eval()(torch.randn(1, 3, 64, 64, dtype=dtype)).isfinite().all()
    model = create(family, dtype=dtype, device="meta")
    assert all(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers()))
    assert model(torch.empty(2, 3, 64, 64, dtype=dtype, device="meta")).shape == (2, 1000)


def test_the_type_asked_for_changes_nothing_else(family):
    usual, double = create(family), create(family, dtype=torch.float32, device="cpu")
    torch.testing.assert_close(double.state_dict(), usual.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_a_new_head_has_the_type_device_and_mode_of_its_model(family, training):
    model = create(family).to(torch.bfloat16).train(training)
    for classes, pool in ((4, "max"), (0, None), (3, "avg")):
        model.reset_classifier(classes, pool)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert {module.training for module in model.modules()} == {training}
    model = create(family, device="meta")
    model.reset_classifier(3, "max")
    assert all(parameter.is_meta for parameter in model.parameters())


@functools.cache
def timm_refuses(pool):
    """Whether timm's own model with a norm behind the pooling refuses one of another width; 1.0.21 does not."""
    try:
        timm.create_model("convnext_atto", global_pool=pool, device="meta")
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast", "fastmax", "fastcatavgmax", ""])
@pytest.mark.parametrize("classes", [0, 5])
def test_every_pooling(family, pool, classes):
    x, other = torch.randn(2, 3, 64, 64), create(family)
    if pool.endswith("catavgmax") and family in ISOTROPIC and not timm_refuses(pool):
        pytest.skip("timm makes a head of other widths, and says nothing")
    if pool.endswith("catavgmax") and family != "test_replknet":  # a norm behind the pooling has its width
        with pytest.raises(AssertionError, match="width"):
            create(family, num_classes=classes, global_pool=pool)
        with pytest.raises(AssertionError, match="width"):
            other.reset_classifier(classes, pool)
        assert other(x).shape == (2, 1000)
        return
    model = create(family, num_classes=classes, global_pool=pool)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    out = model(x)
    assert pooled.shape[1] == model.head_hidden_size
    assert out.shape[1] == (classes or model.head_hidden_size)
    assert out.shape[2:] == pooled.shape[2:] == (() if pool else model.forward_features(x).shape[2:])
    other.reset_classifier(classes, pool)
    assert other(x).shape == out.shape
    assert other.head_hidden_size == model.head_hidden_size


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("indices", [(0, 1, 2), (-1,), (0, -1)])
@pytest.mark.parametrize("way", ["hook", "fx"])
def test_features_by_other_ways(family, way, indices):
    model = create(family)
    indices = tuple(range(len(model.feature_info))[index] for index in indices)
    usual = create(family, features_only=True, out_indices=indices).eval()
    other = create(family, features_only=True, out_indices=indices, feature_cls=way).eval()
    x = torch.randn(1, 3, 64, 96)
    for got, expected in zip(other(x), usual(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert other.feature_info.channels() == usual.feature_info.channels()


@pytest.mark.parametrize("way", ["list", "dict", FeatureListNet])
def test_features_by_a_chain_of_modules_are_refused(family, way):
    with pytest.raises(InputError, match="take 'getter', 'hook' or 'fx'"):
        create(family, features_only=True, feature_cls=way)


def test_features_leave_no_parameter_unused(family):
    count = len(create(family).feature_info)
    for indices in ((0,), (1,), (-1,), (0, count - 1)):
        model = create(family, features_only=True, out_indices=indices)
        sum(item.sum() for item in model(torch.randn(2, 3, 64, 64))).backward()
        assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_form_is_refused(family, stride):
    if (family, stride) == ("convnext_isotropic_small", 16):
        assert create(family, output_stride=16).feature_info[0]["reduction"] == 16
        return
    with pytest.raises(InputError, match=f"no dilated form, so that output_stride={stride}"):
        create(family, output_stride=stride)


# ---------------------------------------------------------------- hooks


def gradcam(model, stage, x, index):
    """Grad-CAM (Selvaraju et al. 2017) by hooks, as the tools for it do it: maps (N, h, w) of ``stage``."""
    kept = {}

    def keep(module, inputs, output):
        kept["map"] = output
        output.register_hook(lambda grad: kept.update(grad=grad))

    hook = stage.register_forward_hook(keep)
    try:
        model(x)[:, index].sum().backward()
    finally:
        hook.remove()
    return (kept["grad"].mean((2, 3), keepdim=True) * kept["map"]).sum(1).relu()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*FAMILIES, "test_convnext"])
def test_gradcam_on_every_stage(name, checkpointing):
    model = create(name, num_classes=5, **({"depth": 3} if name in ISOTROPIC else {})).eval()
    model.set_grad_checkpointing(checkpointing)
    x = torch.randn(2, 3, 64, 96)
    maps = [gradcam(model, stage, x, 1) for stage in stages_of(model)]
    sizes = [(2, 64 // info["reduction"], 96 // info["reduction"]) for info in model.feature_info]
    assert [item.shape for item in maps] == sizes
    assert all(item.isfinite().all() for item in maps)
    # Of the last stage, the gradient is that of pooling and head, which a hook-free calculation gives too.
    features = model.forward_features(x).detach().requires_grad_()
    if name == "test_replknet":  # whose norm stands behind the last stage
        features = model.forward_intermediates(x, indices=1, intermediates_only=True)[0].detach().requires_grad_()
    head = lambda f: model.forward_head(model.norm(f) if name == "test_replknet" else f)  # noqa: E731
    (grad,) = torch.autograd.grad(head(features)[:, 1].sum(), features)
    expected = (grad.mean((2, 3), keepdim=True) * features).sum(1).relu()
    torch.testing.assert_close(maps[-1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("name", ["test_replknet", "test_slak"])
def test_hooks_of_an_extractor_see_its_maps(name, norms):
    options = {"norm_intermediate_features": True} if norms and name == "test_replknet" else {}
    backbone = lk_downstream.create_backbone(name, **options).eval()
    seen = {}
    for index, stage in enumerate(backbone.body.stages):
        stage.register_forward_hook(lambda module, inputs, output, index=index: seen.update({index: output}))
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [seen[index].shape for index in range(4)] == [item.shape for item in maps]
    if name == "test_replknet":
        assert all(torch.equal(seen[index], maps[index]) for index in range(4))


# ---------------------------------------------------------------- copies, scripts, functions


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript(family, tmp_path):
    model, x = create(family, num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    for form in (model, lk_downstream.reparameterize(model, deep=True)):
        torch.jit.script(form).save(tmp_path / "model.pt")
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(x), form(x), rtol=1e-4, atol=1e-5)
    forms = [create(family, features_only=True).eval()]
    forms += [lk_downstream.create_backbone(family).eval()] if family in NAMES else []
    for form in forms:
        for got, expected in zip(torch.jit.script(form)(x), form(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_copies(family):
    model, x = create(family, num_classes=3).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copied(x), expected, rtol=1e-4, atol=1e-5)


def test_functions_of_parameters(family, randomized):
    """Gradients per image and derivatives along a direction by torch.func are those of backward passes."""
    model, other = (randomized(create(family, num_classes=3).double(), seed) for seed in (1, 2))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, x):
        return torch.func.functional_call(model, (parameters, buffers), (x,)).square().sum()

    loss(parameters, x).backward()
    each = torch.func.vmap(torch.func.grad(lambda p, one: loss(p, one[None])), (None, 0))(parameters, x)
    for key, parameter in parameters.items():
        torch.testing.assert_close(each[key].sum(0), parameter.grad, rtol=1e-6, atol=1e-9, msg=key)
    direction = {key: torch.randn_like(parameter) for key, parameter in parameters.items()}
    _, along = torch.func.jvp(lambda p: loss(p, x), (parameters,), (direction,))
    torch.testing.assert_close(along, sum((direction[key] * p.grad).sum() for key, p in parameters.items()))
    stacked = torch.func.stack_module_state([model, other])
    both = torch.func.vmap(lambda p, b: torch.func.functional_call(model, (p, b), (x,)))(*stacked)
    torch.testing.assert_close(both, torch.stack([model(x), other(x)]))
