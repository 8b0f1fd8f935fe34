"""UPerHead and FCNHead against mmsegmentation's: names, initial weights, outputs, running statistics and gradients."""

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn

from lk_downstream.errors import InputError
from lk_downstream.heads import FCNHead, UPerHead
from lk_downstream.heads.mmseg import _quiet

CHANNELS = (8, 16, 24, 32)
UPER = {"channels": 16, "pool_scales": (1, 2, 3, 6)}
FCN = {"in_index": 2, "channels": 16, "num_convs": 1, "concat_input": False}
CASES = [
    (UPerHead, UPER),
    (UPerHead, UPER | {"pool_scales": (1, 4), "align_corners": True}),
    (UPerHead, UPER | {"dropout": 0.0}),
    (FCNHead, FCN),
    (FCNHead, FCN | {"in_index": -1, "num_convs": 3, "align_corners": True}),
    (FCNHead, FCN | {"in_index": 0, "num_convs": 2, "concat_input": True}),
    (FCNHead, FCN | {"in_index": 1, "num_convs": 0, "dropout": 0.5}),
    (FCNHead, FCN | {"in_index": 1, "num_convs": 0, "concat_input": True}),
]


def maps(batch=2, height=40, width=28):
    return [torch.randn(batch, c, -(-height >> i), -(-width >> i)) for i, c in enumerate(CHANNELS)]


def theirs(kind, classes, options):
    options = {"dropout": 0.1, "align_corners": False, **options}
    index = options.pop("in_index", None)
    levels = {"in_channels": list(CHANNELS), "in_index": [0, 1, 2, 3]}
    if index is not None:
        levels = {"in_channels": CHANNELS[index], "in_index": index}
    settings = {"dropout_ratio": options.pop("dropout"), "norm_cfg": {"type": "BN"}, "out_channels": classes}
    with _quiet():
        head = MODELS.get(kind.__name__)(num_classes=classes, **levels, **settings, **options)
        head.init_weights()
    return head


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{'-'.join(map(str, case[1].values()))}")
def pair(request):
    """Both heads, made after the same seed."""
    kind, options = request.param
    torch.manual_seed(3)
    own = kind(CHANNELS, 5, **options)
    torch.manual_seed(3)
    return own, theirs(kind, 5, options)


def test_names_and_initial_weights(pair):
    own, other = (head.state_dict() for head in pair)
    assert list(own) == list(other)
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)
    assert [name for name, _ in pair[0].named_parameters()] == [name for name, _ in pair[1].named_parameters()]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_statistics_and_gradients(pair, training):
    inputs = maps()
    results = []
    for head in pair:
        head.train(training).double()
        leaves = [x.double().requires_grad_() for x in inputs]
        torch.manual_seed(5)  # of the dropped channels
        logits = head(leaves)
        (logits * torch.arange(logits.numel()).view(logits.shape).sin()).sum().backward()
        gradients = [x.grad for x in (*leaves, *head.parameters())]
        results.append([logits, *head.state_dict().values(), *gradients])
    for own, other in zip(*results):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(40, 28), (64, 64), (8, 8), (9, 200)])  # maps of a single cell, too
def test_float32_outputs_of_any_size(pair, layout, size):
    inputs = [x.contiguous(memory_format=layout) for x in maps(1, *size)]
    with torch.no_grad():
        own, other = (head.eval()(inputs) for head in pair)
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * other.std().item())  # float64 is held to 1e-9 above


@pytest.mark.parametrize("type", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast(type):
    head = UPerHead(CHANNELS, 5, channels=16).eval()
    inputs = maps()
    with torch.no_grad():
        expected = head(inputs)
        with torch.autocast("cpu", type):
            logits = head(inputs)
        assert logits.dtype == type
        assert (logits - expected).abs().max() < 0.05 * expected.std()
        plain = head.to(type)([x.to(type) for x in inputs])
    assert plain.dtype == type
    assert (plain - expected).abs().max() < 0.05 * expected.std()


def test_compiled_in_one_graph():
    head = UPerHead(CHANNELS, 5, channels=16).eval()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    inputs = maps()
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), head(inputs))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(inputs), head(inputs))


def test_heads_without_storage():
    with torch.device("meta"):
        head = UPerHead(CHANNELS, 5, channels=16).eval()
    assert head([x.to("meta") for x in maps(1, 32, 32)]).shape == (1, 5, 32, 32)


def test_published_keys_and_sizes():
    head = UPerHead((96, 192, 384, 768), 150)
    auxiliary = FCNHead((96, 192, 384, 768), 150)
    assert sum(tensor.numel() for tensor in head.parameters()) == 31_497_366  # recipes.md 2.4
    assert sum(tensor.numel() for tensor in auxiliary.parameters()) == 923_798
    keys = head.state_dict()
    assert keys["psp_modules.3.1.conv.weight"].shape == (512, 768, 1, 1)
    assert keys["lateral_convs.2.conv.weight"].shape == (512, 384, 1, 1)
    assert keys["fpn_bottleneck.conv.weight"].shape == (512, 2048, 3, 3)
    assert auxiliary.state_dict()["convs.0.conv.weight"].shape == (256, 384, 3, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_index": 4}, "in_index 4 of the head is out of range"),
        ({"num_convs": -1}, "num_convs of the head is -1"),
        ({"num_convs": 0}, "set channels to 24"),
    ],
)
def test_a_level_or_count_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        FCNHead(CHANNELS, 5, **options)


def test_norms_become_synchronised_without_new_keys():
    head = UPerHead(CHANNELS, 5, channels=16)
    keys = list(head.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(head)
    assert list(converted.state_dict()) == keys
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
